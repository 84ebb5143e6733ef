"""The secrets that open the doors between services under test. Three, so that the wrong one is noticed."""

GATEWAY_SECRET = "gateways-show-this-to-the-registry-of-a-test"
WORKER_SECRET = "workers-show-this-to-the-registry-of-a-test"
DISPATCH_SECRET = "what-workers-of-a-test-are-called-with"
