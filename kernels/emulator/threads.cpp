// The threads of a block as fibers: they take turns, and stop where they wait for each
// other. See ../emulator.h.

#if !defined(_XOPEN_SOURCE) && defined(__APPLE__)
#define _XOPEN_SOURCE 700  // or macOS hides ucontext
#define _DARWIN_C_SOURCE
#endif
#undef _FORTIFY_SOURCE  // it takes a jump to another stack for an attack

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "machine.h"

#if !defined(MAP_NORESERVE)
#define MAP_NORESERVE 0
#endif

namespace emulator {

Now now;

namespace {

constexpr int STACK = 64 * 1024, GUARD = 16 * 1024;  // bytes
constexpr int WARP = 32;

enum State { READY, AT_BLOCK_BARRIER, AT_WARP_BARRIER, AT_EXCHANGE, RETURNED };

struct Thread {
  Seen seen;  // what memory.cpp sees of it
  State state;
  Line line;          // where it waits
  unsigned mask;      // for whom, in its warp
  bool vote;
  uint64_t given, got;
  int source;         // lane whose number it wants
  jmp_buf place;      // where it goes on
  ucontext_t start;
  char* stack;

  int lane() const { return seen.thread % WARP; }
};

struct Launch {
  const char* name;
  dim3 grid, block;
  void (*call)(const void*);
  const void* work;
  int64_t work_bytes;
};

struct Fault {
  char kind[16];
  char kernel[200];
  char block[64], thread[64];
  char sentence[600];
  const void *site, *other;
};

Launch launch_now;
uint3 block_now;
std::vector<uint32_t> begins;  // epoch in which each block of the launch began
std::vector<uint3> blocks;     // and which block that was
std::vector<Thread*> threads;
std::vector<int> turns;        // who runs after whom
char* stacks;
int64_t stacks_bytes;
Thread* running;
int votes;       // of the last barrier
jmp_buf manager;
Fault fault;
uint64_t schedule;
int64_t shared_bytes;
double seconds_allowed, began;

double seconds() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

// --- names --------------------------------------------------------------------------

void name(char (&to)[64], const char* what, uint3 at, dim3 of) {
  if (of.y == 1 && of.z == 1)
    snprintf(to, sizeof(to), "%s %u", what, at.x);
  else
    snprintf(to, sizeof(to), "%s (%u, %u, %u)", what, at.x, at.y, at.z);
}

uint3 position(int64_t number, dim3 of) {
  return {unsigned(number % of.x), unsigned(number / of.x % of.y),
          unsigned(number / of.x / of.y)};
}

const char* state_name(const Thread& thread) {
  static char text[2][96];
  static int turn = 0;
  char(&to)[96] = text[turn ^= 1];
  const char* names[] = {"runs", "waits at __syncthreads", "waits at __syncwarp",
                         "waits at a shuffle or vote", "has returned"};
  if (thread.state == READY || thread.state == RETURNED)
    snprintf(to, sizeof(to), "%s", names[thread.state]);
  else
    snprintf(to, sizeof(to), "%s (line %d)", names[thread.state], thread.line.line);
  return to;
}

// --- faults -------------------------------------------------------------------------

void record(const char* kind, int thread, const void* site, const void* other,
            const char* sentence, va_list values) {
  if (fault.kind[0]) return;  // the first one counts
  snprintf(fault.kind, sizeof(fault.kind), "%s", kind);
  snprintf(fault.kernel, sizeof(fault.kernel), "%s", launch_now.name);
  name(fault.block, "block", block_now, launch_now.grid);
  fault.thread[0] = 0;
  if (thread >= 0)
    name(fault.thread, "thread", position(thread, launch_now.block), launch_now.block);
  vsnprintf(fault.sentence, sizeof(fault.sentence), sentence, values);
  fault.site = site, fault.other = other;
}

// A fault that the manager finds, between the turns of the threads.
void report(const char* kind, int thread, const char* sentence, ...) {
  va_list values;
  va_start(values, sentence);
  record(kind, thread, nullptr, nullptr, sentence, values);
  va_end(values);
}

// --- crashes ------------------------------------------------------------------------

// What the processor itself refuses (memory that is not there, a division of whole
// numbers by 0) becomes a fault like any other, for as long as a kernel runs.
constexpr int SIGNALS[] = {SIGSEGV, SIGBUS, SIGFPE};
struct sigaction handlers_before[3];
stack_t signal_stack_before;
char signal_stack[64 * 1024];  // the thread's own may be what is full

// The instruction after the one that crashed, where we know how to ask for it.
const void* crash_site(void* context) {
#if defined(__linux__) && defined(__x86_64__)
  const ucontext_t* at = static_cast<ucontext_t*>(context);
  return reinterpret_cast<const char*>(at->uc_mcontext.gregs[REG_RIP]) + 1;
#elif defined(__linux__) && defined(__aarch64__)
  const ucontext_t* at = static_cast<ucontext_t*>(context);
  return reinterpret_cast<const char*>(at->uc_mcontext.pc) + 1;
#else
  (void)context;
  return nullptr;
#endif
}

void crashed(int signal, siginfo_t* about, void* context) {
  const char* at = static_cast<const char*>(about->si_addr);
  if (!now.thread) {  // not a kernel's doing: let whoever was there before see to it
    for (int i = 0; i < 3; ++i)
      if (SIGNALS[i] == signal) sigaction(signal, &handlers_before[i], nullptr);
    return;
  }
  const void* site = crash_site(context);
  if (signal == SIGFPE)
    fail("division", site, nullptr, site ? "divides by 0 in {0}" : "divides by 0");
  if (at >= stacks && at < stacks + stacks_bytes)
    fail("stack", nullptr, nullptr, "needs more than %d KB for its own variables",
         STACK / 1024);
  fail("bounds", site, nullptr,
       site ? "touches address %p in {0}, which lies in no array"
            : "touches address %p, which lies in no array", about->si_addr);
}

void catch_crashes() {
  stack_t mine = {};
  mine.ss_sp = signal_stack, mine.ss_size = sizeof(signal_stack);
  sigaltstack(&mine, &signal_stack_before);
  struct sigaction action = {};
  action.sa_sigaction = crashed;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;  // we do not return from it
  for (int i = 0; i < 3; ++i) sigaction(SIGNALS[i], &action, &handlers_before[i]);
}

void leave_crashes() {
  for (int i = 0; i < 3; ++i) sigaction(SIGNALS[i], &handlers_before[i], nullptr);
  sigaltstack(&signal_stack_before, nullptr);
}

// --- turns --------------------------------------------------------------------------

// Leave the running thread; returns when its next turn comes.
void pause() {
  if (_setjmp(running->place) == 0) _longjmp(manager, 1);
}

// What a fiber does: the kernel once for each block.
void live() {
  for (;;) {
    launch_now.call(launch_now.work);
    running->state = RETURNED;
    pause();
  }
}

// Give a thread its turn; returns when it waits or has returned.
void resume(Thread& thread, bool first) {
  running = &thread;
  now.thread = &thread.seen;
  if (_setjmp(manager) == 0) {
    if (first)
      setcontext(&thread.start);
    else
      _longjmp(thread.place, 1);
  }
  now.thread = nullptr;
}

// Numbers 0 .. count - 1 in the order of the schedule: 0 upwards, 1 downwards, others
// shuffled.
std::vector<int> order(int count, uint64_t salt) {
  std::vector<int> found(count);
  for (int i = 0; i < count; ++i) found[i] = schedule == 1 ? count - 1 - i : i;
  // Seeds spread by the golden ratio, then Marsaglia's xorshift: small and repeatable.
  uint64_t state = schedule * 0x9e3779b97f4a7c15u + salt + 1;
  for (int i = count - 1; i > 0 && schedule > 1; --i) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    const int other = int(state % uint64_t(i + 1)), kept = found[i];
    found[i] = found[other], found[other] = kept;
  }
  return found;
}

void make_threads(int count) {
  const int64_t each = STACK + GUARD;
  stacks_bytes = count * each;
  void* got = mmap(nullptr, size_t(stacks_bytes), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANON | MAP_NORESERVE, -1, 0);
  stacks = got == MAP_FAILED ? nullptr : static_cast<char*>(got);
  if (!stacks)
    return report("launch", -1, "no memory for the stacks of %d threads", count);
  for (int i = 0; i < count; ++i) {
    Thread* thread = new Thread();
    thread->seen.thread = i;
    thread->stack = stacks + i * each + GUARD;
    mprotect(stacks + i * each, GUARD, PROT_NONE);
    getcontext(&thread->start);
    thread->start.uc_stack.ss_sp = thread->stack;
    thread->start.uc_stack.ss_size = STACK;
    thread->start.uc_link = nullptr;
    makecontext(&thread->start, live, 0);
    threads.push_back(thread);
  }
}

void remove_threads() {
  for (Thread* thread : threads) delete thread;
  threads.clear();
  if (stacks) munmap(stacks, size_t(stacks_bytes));
  stacks = nullptr;
}

// --- waiting for the block ----------------------------------------------------------

// Let all go on if all wait at the same __syncthreads.
bool release_block() {
  for (const Thread* thread : threads)
    if (thread->state != AT_BLOCK_BARRIER) return false;
  for (const Thread* thread : threads)
    if (thread->line.line != threads[0]->line.line) {
      report("barrier", threads[0]->seen.thread,
             "waits at __syncthreads in line %d, and %s at another one, in line %d: "
             "all threads of a block must come to the same __syncthreads",
             threads[0]->line.line, thread_name(thread->seen.thread),
             thread->line.line);
      return false;
    }
  votes = 0;
  for (Thread* thread : threads) votes += thread->vote, thread->state = READY;
  ++now.epoch;  // whatever was touched before is over
  return true;
}

// --- waiting for lanes --------------------------------------------------------------

Thread* lane_of(const Thread& thread, int lane) {
  const size_t number = size_t(thread.seen.thread / WARP * WARP + lane);
  return number < threads.size() ? threads[number] : nullptr;
}

template <typename Do>
void each_in_mask(const Thread& thread, Do work) {  // check_mask has seen the mask
  const int first = thread.seen.thread / WARP * WARP;
  for (int lane = 0; lane < WARP; ++lane)
    if (thread.mask >> lane & 1) work(*threads[size_t(first + lane)]);
}

// After __syncwarp each lane has seen all that the others have seen.
void join_clocks(const Thread& any) {
  uint32_t joined[WARP] = {};
  each_in_mask(any, [&](const Thread& one) {
    for (int i = 0; i < WARP; ++i)
      if (one.seen.clocks[i] > joined[i]) joined[i] = one.seen.clocks[i];
  });
  each_in_mask(any, [&](Thread& one) {
    memcpy(one.seen.clocks, joined, sizeof(joined));
    ++one.seen.clocks[one.lane()];
  });
}

// Let the lanes of a thread's mask go on if they all wait for one another.
bool release_lanes(Thread& thread) {
  bool all = true;
  each_in_mask(thread, [&](const Thread& one) {
    all = all && one.state == thread.state && one.mask == thread.mask;
  });
  if (!all) return false;
  if (thread.state == AT_WARP_BARRIER) join_clocks(thread);
  if (thread.state == AT_EXCHANGE)
    each_in_mask(thread, [&](Thread& one) {
      if (one.mask >> one.source & 1)
        one.got = lane_of(one, one.source)->given;
      else
        report("lanes", one.seen.thread,
               "reads from lane %d in line %d, which is not in its mask 0x%08x",
               one.source, one.line.line, one.mask);
    });
  each_in_mask(thread, [](Thread& one) { one.state = READY; });
  return true;
}

// A thread comes to a call with a mask: what is wrong about that already now?
void check_mask(unsigned mask, Line here) {
  const int lane = running->lane();
  if (!(mask >> lane & 1))
    fail("lanes", nullptr, nullptr,
         "calls with mask 0x%08x in line %d, in which its own lane %d is missing", mask,
         here.line, lane);
  for (int i = 0; i < WARP; ++i) {
    if (!(mask >> i & 1)) continue;
    const Thread* other = lane_of(*running, i);
    if (!other)
      fail("lanes", nullptr, nullptr,
           "calls with mask 0x%08x in line %d, but its warp has no lane %d", mask,
           here.line, i);
    if (other->state == RETURNED)
      fail("lanes", nullptr, nullptr,
           "calls with mask 0x%08x in line %d, but lane %d (%s) has returned", mask,
           here.line, i, thread_name(other->seen.thread));
  }
}

void wait_for_lanes(State state, unsigned mask, Line here) {
  check_mask(mask, here);
  running->state = state, running->mask = mask, running->line = here;
  if (release_lanes(*running) && !fault.kind[0]) return;  // the last one need not pause
  pause();
}

// --- a block ------------------------------------------------------------------------

// Nobody can go on: say who waits for whom.
void report_deadlock() {
  for (const Thread* one : threads) {
    if (one->state != AT_WARP_BARRIER && one->state != AT_EXCHANGE) continue;
    for (int lane = 0; lane < WARP; ++lane) {
      const Thread* other = lane_of(*one, lane);
      if (!(one->mask >> lane & 1) ||
          (other->state == one->state && other->mask == one->mask))
        continue;
      if (other->state == AT_WARP_BARRIER || other->state == AT_EXCHANGE)
        return report("lanes", one->seen.thread,
                      "%s with mask 0x%08x for lane %d, but %s %s with mask 0x%08x",
                      state_name(*one), one->mask, lane,
                      thread_name(other->seen.thread), state_name(*other), other->mask);
      return report(other->state == RETURNED ? "lanes" : "barrier", one->seen.thread,
                    "%s with mask 0x%08x for lane %d, but %s %s", state_name(*one),
                    one->mask, lane, thread_name(other->seen.thread),
                    state_name(*other));
    }
  }
  for (const Thread* one : threads)
    for (const Thread* other : threads)
      if (one->state == AT_BLOCK_BARRIER && other->state != AT_BLOCK_BARRIER)
        return report("barrier", one->seen.thread,
                      "%s, which %s never reaches: it %s", state_name(*one),
                      thread_name(other->seen.thread), state_name(*other));
}

// Give every thread that is ready a turn; returns whether there was one.
bool one_round(bool first) {
  bool any = false;
  for (const int turn : turns) {
    Thread& thread = *threads[turn];
    if (thread.state != READY) continue;
    any = true;
    resume(thread, first);
    if (fault.kind[0]) return false;
  }
  return any;
}

void run_block(int64_t number, bool first) {
  block_now = position(number, launch_now.grid);
  now.block_began = ++now.epoch;
  begins.push_back(now.epoch), blocks.push_back(block_now);
  begin_block();
  for (Thread* thread : threads) {
    thread->state = READY;
    memset(thread->seen.clocks, 0, sizeof(thread->seen.clocks));
    thread->seen.clocks[thread->lane()] = 1;
  }
  turns = order(int(threads.size()), uint64_t(number));
  while (one_round(first) && !fault.kind[0]) {
    first = false;
    release_block();
    if (seconds() - began > seconds_allowed)
      return report("time", -1, "is not done after %g seconds", seconds_allowed);
  }
  bool done = true;
  for (const Thread* thread : threads) done = done && thread->state == RETURNED;
  if (!done && !fault.kind[0]) report_deadlock();
}

bool check_launch() {
  const dim3 g = launch_now.grid, b = launch_now.block;
  const int64_t count = int64_t(b.x) * b.y * b.z;
  if (count < 1 || count > 1024 || b.z > 64)
    report("launch", -1, "a block of %u x %u x %u threads: 1 to 1024 are possible", b.x,
           b.y, b.z);
  else if (g.x < 1 || g.y < 1 || g.z < 1 || g.x > 0x7fffffffu || g.y > 65535 ||
           g.z > 65535)
    report("launch", -1, "a grid of %u x %u x %u blocks: at least 1, and at most "
           "2147483647 x 65535 x 65535 are possible", g.x, g.y, g.z);
  return !fault.kind[0];
}

}  // namespace

// --- what kernels and memory.cpp call -----------------------------------------------

uint3 thread_index() { return position(running->seen.thread, launch_now.block); }
uint3 block_index() { return block_now; }
dim3 block_size() { return launch_now.block; }
dim3 grid_size() { return launch_now.grid; }
int lane() { return running->lane(); }
int64_t dynamic_shared_bytes() { return shared_bytes; }

int block_barrier(bool vote, Line here) {
  running->vote = vote, running->line = here;
  running->state = AT_BLOCK_BARRIER;
  pause();
  return votes;
}

void warp_barrier(unsigned mask, Line here) {
  wait_for_lanes(AT_WARP_BARRIER, mask, here);
}

uint64_t exchange(unsigned mask, uint64_t given, int source, Line here) {
  running->given = given, running->source = source & (WARP - 1);
  wait_for_lanes(AT_EXCHANGE, mask, here);
  return running->got;
}

void fail(const char* kind, const void* site, const void* other, const char* sentence,
          ...) {
  va_list values;
  va_start(values, sentence);
  record(kind, running->seen.thread, site, other, sentence, values);
  va_end(values);
  _longjmp(manager, 1);  // and never come back
}

void check_time() {
  if (seconds() - began > seconds_allowed)
    fail("time", nullptr, nullptr, "is not done after %g seconds", seconds_allowed);
}

const char* thread_name(int number) {
  static char text[2][64];
  static int turn = 0;
  char(&to)[64] = text[turn ^= 1];
  name(to, "thread", position(number, launch_now.block), launch_now.block);
  return to;
}

const char* block_name(uint32_t epoch) {
  static char text[64];
  size_t i = begins.size() - 1;
  while (i > 0 && begins[i] > epoch) --i;
  name(text, "block", blocks[i], launch_now.grid);
  return text;
}

int64_t block_number() {
  const dim3 of = launch_now.grid;
  return block_now.x + int64_t(of.x) * (block_now.y + int64_t(of.y) * block_now.z);
}

bool is_own(const void* at) {
  const char* byte = static_cast<const char*>(at);
  const char* work = static_cast<const char*>(launch_now.work);
  return (byte >= stacks && byte < stacks + stacks_bytes) ||
         (byte >= work && byte < work + launch_now.work_bytes);
}

void run(const char* name, dim3 grid, dim3 block, void (*call)(const void*),
         const void* work, int64_t work_bytes) {
  if (fault.kind[0]) return;  // after a fault nothing runs
  launch_now = {name, grid, block, call, work, work_bytes};
  now.launch_began = now.epoch + 1;
  block_now = {0, 0, 0};
  if (!check_launch()) return;
  begins.clear(), blocks.clear();
  make_threads(int(block.x * block.y * block.z));
  catch_crashes();
  bool first = true;
  for (const int number : order(int(grid.x * grid.y * grid.z), 0x5eed)) {
    if (fault.kind[0]) break;
    run_block(number, first);
    first = false;
  }
  leave_crashes();
  remove_threads();
}

}  // namespace emulator

// --- what Python calls --------------------------------------------------------------

extern "C" {

void emulator_begin(uint64_t schedule, int64_t shared_bytes, double seconds) {
  emulator::fault = {};
  emulator::schedule = schedule;
  emulator::shared_bytes = shared_bytes;
  emulator::seconds_allowed = seconds;
  emulator::began = emulator::seconds();
}

const void* emulator_fault() {
  return emulator::fault.kind[0] ? &emulator::fault : nullptr;
}
}
