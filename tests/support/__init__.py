"""Parts that tests of several services share."""
