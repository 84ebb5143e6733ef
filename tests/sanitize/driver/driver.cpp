// Drives the kernels for sanitizers to watch: `driver [--quick] [--short BUFFER] [--buffers] THREADS...`.
//
// Ends with 0 where all calls came to the same finite results on one thread and on each of THREADS; otherwise says what
// did not and ends with 1, or as the sanitizer ends it.
// --quick: small shapes. --short: buffers of this name are one element too short. --buffers: lists the names.
#include "choosing.h"
#include "forward_cases.h"
#include "packing.h"
#include "teams.h"

int main(int count, char** arguments) {
  using namespace sanitize;
  bool quick = false, list = false;
  std::vector<int> threads;
  for (int i = 1; i < count; ++i) {
    const std::string given = arguments[i];
    if (given == "--quick") quick = true;
    else if (given == "--buffers") list = true;
    else if (given == "--short" && i + 1 < count) Memory::shorten(arguments[++i]);
    else if (std::atoi(given.c_str()) > 1) threads.push_back(std::atoi(given.c_str()));
    else fail("not understood: " + given);
  }
  if (threads.empty()) fail("how many threads?");
  check_packs();
  check_choose(threads, quick);
  check_forward(threads, quick);
  check_teams(threads, quick);
  if (list)
    for (const std::string& name : Memory::names()) std::puts(name.c_str());
  return 0;
}
