// What the two halves of the emulator know of each other: threads.cpp runs the threads
// of a block, memory.cpp watches what they touch.

#pragma once

#include <cstdint>

#include "../emulator.h"

namespace emulator {

// What one thread of the running block has seen of the others.
struct Seen {
  int thread;            // number in the block
  uint32_t clocks[32];   // of each lane of its warp: accesses up to then are over
};

// Where the run is.
struct Now {
  const Seen* thread = nullptr;  // who runs; none outside of kernels
  uint32_t epoch = 0;            // counts the barriers of all blocks of all launches
  uint32_t block_began = 0;      // epoch in which the block began
  uint32_t launch_began = 0;
};
extern Now now;

// --- threads.cpp --------------------------------------------------------------------

// End the run from within a thread. The sentence may name instructions: "{0}" and "{1}"
// stand for the lines of `site` and `other`.
[[noreturn]] void fail(const char* kind, const void* site, const void* other,
                       const char* sentence, ...) __attribute__((format(printf, 4, 5)));
// "thread 3", "thread (3, 1, 0)"; likewise for a block that began in that epoch.
const char* thread_name(int number);
const char* block_name(uint32_t epoch);
int64_t block_number();
// Whether that address is on the stack of a thread, or part of a kernel's arguments.
bool is_own(const void* at);
// Called now and then by threads that do not come to an end.
void check_time();
int64_t dynamic_shared_bytes();

// --- memory.cpp ----------------------------------------------------------------------

void begin_block();  // forget the shared arrays of the last one

}  // namespace emulator
