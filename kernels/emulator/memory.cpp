// What the threads touch: arrays with guard zones around them, who touched which number
// last, and the trace. See ../emulator.h.

#if defined(__APPLE__)
#define _DARWIN_C_SOURCE
#endif

#include <dlfcn.h>
#include <sys/mman.h>

#include <cstdio>
#include <vector>

#include "machine.h"

#if !defined(MAP_NORESERVE)
#define MAP_NORESERVE 0
#endif

namespace emulator {

namespace {

// --- arrays -------------------------------------------------------------------------

// One access, as later ones see it.
struct Stamp {
  uint32_t epoch;  // 0: none yet
  uint32_t clock;  // of the thread that did it
  uint32_t thread : 31, atomic : 1;
  uint32_t site;   // the instruction, as a distance in the library
};

// Who touched a number: the last write, and the last reads of two threads.
struct Touched {
  Stamp write, read, other_read;
};

struct Array {
  char name[64] = {};
  char* first = nullptr;
  int64_t bytes = 0;
  int item = 1;       // bytes of an element, for messages and the trace
  int unit = 1;       // bytes that one `Touched` stands for
  bool writable = true, shared = false;
  Touched* touched = nullptr;
  int64_t touched_bytes = 0;
  uint32_t asked = 0;  // shared arrays: the block that last asked for it
};

// A piece of the address space, in slots of one size. An array lies in the middle of
// its slot; what is left and right of it belongs to nobody, so that an address far out
// of bounds still tells whose bounds.
struct Space {
  char* first = nullptr;
  int bits = 0;  // of the size of a slot
  int slots = 0;
  std::vector<Array> arrays;

  int64_t slot_bytes() const { return int64_t(1) << bits; }
  int64_t bytes() const { return slot_bytes() * slots; }

  bool open(int count, int slot_bits) {
    void* got = mmap(nullptr, size_t(count) << slot_bits, PROT_NONE,
                     MAP_PRIVATE | MAP_ANON | MAP_NORESERVE, -1, 0);
    if (got == MAP_FAILED) return false;
    first = static_cast<char*>(got), bits = slot_bits, slots = count;
    arrays.assign(size_t(count), Array());
    return true;
  }

  void close() {
    for (Array& array : arrays)
      if (array.touched) munmap(array.touched, size_t(array.touched_bytes));
    arrays.clear();
    if (first) munmap(first, size_t(bytes()));
    first = nullptr;
  }

  // Give a slot its array; returns whether there was memory for it.
  bool place(int slot, const char* name, int64_t size, int item, int unit) {
    constexpr int64_t PAGE = 64 * 1024;
    if (slot >= slots || size > slot_bytes() / 2 - PAGE) return false;
    Array& array = arrays[size_t(slot)];
    const int64_t pages = (size + PAGE) / PAGE * PAGE;
    array.first = first + slot * slot_bytes() + slot_bytes() / 2;
    array.bytes = size, array.item = item, array.unit = unit;
    strncpy(array.name, name, sizeof(array.name) - 1);
    return mprotect(array.first, size_t(pages), PROT_READ | PROT_WRITE) == 0;
  }

  Array* at(const void* address) {
    const int64_t distance = static_cast<const char*>(address) - first;
    if (!first || distance < 0 || distance >= bytes()) return nullptr;
    Array& array = arrays[size_t(distance >> bits)];
    return array.first ? &array : nullptr;
  }
};

constexpr int GLOBAL_SLOTS = 64, SHARED_SLOTS = 256;
constexpr int64_t SHARED_BYTES = 48 * 1024;  // what every GPU gives a block
constexpr int64_t MOST_SHARED_BYTES = 227 * 1024;  // what an H100 gives if it is asked
Space global_space, shared_space;
int arguments = 0;
int64_t shared_in_use = 0;

// --- the trace ----------------------------------------------------------------------

struct Event {
  int64_t block;
  int64_t byte;      // in the array
  int64_t site;      // the instruction, as a distance in the library
  int32_t thread, step;
  int16_t array;
  uint8_t access, bytes;
  int32_t unused;
};

bool tracing = false;
std::vector<Event> events;
std::vector<int32_t> steps;  // of each thread of the block
int64_t touches = 0;
const char* library = nullptr;  // where this library begins in memory

int64_t distance(const void* site) { return static_cast<const char*>(site) - library; }
const void* site_at(uint32_t far) { return library + far; }

void keep(const Array& array, int64_t byte, int64_t bytes, Access access,
          const void* site) {
  const int thread = now.thread->thread;
  if (steps.size() <= size_t(thread)) steps.resize(size_t(thread) + 1);
  events.push_back({block_number(), byte, distance(site), thread, steps[thread]++,
                    int16_t(&array - global_space.arrays.data()), uint8_t(access),
                    uint8_t(bytes), 0});
}

// --- faults -------------------------------------------------------------------------

const char* verb(Access access) {
  return access == LOAD ? "reads" : access == STORE ? "writes" : "adds atomically to";
}

const char* kind(const Array& array) { return array.shared ? "shared array " : ""; }

// The element that a byte belongs to; -1 is the one before the first.
long long element(const Array& array, int64_t byte) {
  const int64_t down = byte < 0 ? array.item - 1 : 0;
  return (byte - down) / array.item;
}

[[noreturn]] void fail_bounds(const Array& array, int64_t byte, int64_t bytes,
                              Access access, const void* site) {
  const bool begins_inside = byte >= 0 && byte < array.bytes;
  if (begins_inside)
    fail("bounds", site, nullptr,
         "%s %d bytes from %s%s[%lld] on in {0}, but it has %lld elements",
         verb(access), int(bytes), kind(array), array.name, element(array, byte),
         element(array, array.bytes));
  fail("bounds", site, nullptr, "%s %s%s[%lld] in {0}, but it has %lld elements",
       verb(access), kind(array), array.name, element(array, byte),
       element(array, array.bytes));
}

[[noreturn]] void fail_race(const Array& array, int64_t byte, const Stamp& before,
                            bool before_wrote, Access access, const void* site) {
  const bool same_block = before.epoch >= now.block_began;
  const char* did = before.atomic   ? "adds to it atomically"
                    : before_wrote ? "writes it"
                                   : "reads it";
  char who[160];
  snprintf(who, sizeof(who), same_block ? "%s" : "%s of %s", thread_name(before.thread),
           same_block ? "" : block_name(before.epoch));
  fail("race", site, site_at(before.site), "%s %s%s[%lld] in {0} and %s %s in {1}, %s",
       verb(access), kind(array), array.name, element(array, byte), who, did,
       same_block ? "with no barrier between the two" : "and blocks run in any order");
}

// --- races --------------------------------------------------------------------------

// Whether an access is over, for certain, when the running thread makes its next one.
bool is_over(const Stamp& before, bool shared) {
  const Seen& me = *now.thread;
  if (before.epoch < now.launch_began) return true;   // that was another kernel
  if (before.epoch < now.block_began) return shared;  // another block
  if (int(before.thread) == me.thread || before.epoch < now.epoch) return true;
  return int(before.thread) / 32 == me.thread / 32 &&
         me.clocks[before.thread % 32] >= before.clock;
}

void note(Touched& touched, const Array& array, int64_t byte, Access access,
          const void* site) {
  const bool writes = access != LOAD, atomic = access == ATOMIC;
  if (!is_over(touched.write, array.shared) && !(atomic && touched.write.atomic))
    fail_race(array, byte, touched.write, true, access, site);
  if (writes && !is_over(touched.read, array.shared))
    fail_race(array, byte, touched.read, false, access, site);
  if (writes && !is_over(touched.other_read, array.shared))
    fail_race(array, byte, touched.other_read, false, access, site);
  const int thread = now.thread->thread;
  const Stamp mine = {now.epoch, now.thread->clocks[thread % 32], uint32_t(thread),
                      atomic, uint32_t(distance(site))};
  if (writes) {
    touched.write = mine;
    return;
  }
  const bool again = touched.read.thread == mine.thread && touched.read.epoch != 0;
  if (!again && !is_over(touched.read, array.shared)) touched.other_read = touched.read;
  touched.read = mine;
}

// Whom an array's numbers were touched by, from now on.
void watch(Array& array) {
  array.touched_bytes = (array.bytes / array.unit + 1) * int64_t(sizeof(Touched));
  void* got = mmap(nullptr, size_t(array.touched_bytes), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANON | MAP_NORESERVE, -1, 0);
  array.touched = got == MAP_FAILED ? nullptr : static_cast<Touched*>(got);
}

// --- one access ---------------------------------------------------------------------

void touch_array(Array& array, const void* at, int64_t bytes, Access access,
                 const void* site) {
  const int64_t byte = static_cast<const char*>(at) - array.first;
  if (byte < 0 || byte + bytes > array.bytes)
    fail_bounds(array, byte, bytes, access, site);
  if (access != LOAD && !array.writable)
    fail("const", site, nullptr, "writes %s[%lld] in {0}, which is const", array.name,
         (long long)(byte / array.item));
  if (array.touched)
    for (int64_t i = byte / array.unit; i <= (byte + bytes - 1) / array.unit; ++i)
      note(array.touched[i], array, i * array.unit, access, site);
  if (tracing && !array.shared) keep(array, byte, bytes, access, site);
}

void touch_other(const void* at, Access access, const void* site) {
  static const char* known = nullptr;  // the page last found to be all right
  constexpr uintptr_t PAGE = 4096;
  const char* page =
      reinterpret_cast<const char*>(reinterpret_cast<uintptr_t>(at) / PAGE * PAGE);
  Dl_info info;
  if (page == known) return;
  if (!dladdr(at, &info))  // tables of constants lie in the library itself
    fail("bounds", site, nullptr, "%s address %p in {0}, which lies in no array",
         verb(access), at);
  known = page;
}

// A range, in pieces as large as a thread can move at once.
void reported_range(const void* at, int64_t bytes, Access access, const void* site) {
  const char* next = static_cast<const char*>(at);
  while (bytes > 0) {
    int64_t piece = 16;
    while (piece > bytes || reinterpret_cast<uintptr_t>(next) % uintptr_t(piece))
      piece /= 2;
    touch(next, piece, access, site);
    next += piece, bytes -= piece;
  }
}

}  // namespace

// --- what kernels and threads.cpp call ----------------------------------------------

void touch(const void* at, int64_t bytes, Access access, const void* site) {
  if (!now.thread || is_own(at)) return;
  if ((++touches & 0xfffff) == 0) check_time();
  if (Array* array = shared_space.at(at))
    touch_array(*array, at, bytes, access, site);
  else if (Array* array = global_space.at(at))
    touch_array(*array, at, bytes, access, site);
  else
    touch_other(at, access, site);
}

void begin_block() {
  shared_in_use = 0;
  steps.assign(steps.size(), 0);
}

void* place_shared(
    int slot, const char* name, int64_t bytes, int item, int unit, int64_t most) {
  if (size_t(slot) >= shared_space.arrays.size())
    fail("shared", nullptr, nullptr, "has more than %d shared arrays", SHARED_SLOTS);
  Array& array = shared_space.arrays[size_t(slot)];
  const bool fits = array.first && array.bytes == bytes && array.unit == unit;
  if (array.asked == now.block_began) {  // another thread has asked before
    if (!fits)
      fail("shared", nullptr, nullptr, "declares shared array %s with %lld bytes and "
           "with %lld", name, (long long)array.bytes, (long long)bytes);
    return array.first;
  }
  shared_in_use += bytes;
  if (shared_in_use > most)
    fail("shared", nullptr, nullptr,
         "has %lld bytes of shared memory with %s; %lld are possible",
         (long long)shared_in_use, name, (long long)most);
  if (!fits) {
    if (!shared_space.place(slot, name, bytes, item, unit))
      fail("shared", nullptr, nullptr, "has no memory for shared array %s", name);
    if (array.touched) munmap(array.touched, size_t(array.touched_bytes));
    watch(array);
  }
  array.shared = true;
  array.asked = now.block_began;
  memset(array.first, 0xff, size_t(bytes));  // as a number: NaN, or -1
  return array.first;
}

void* shared_array(int slot, const char* name, int64_t bytes, int item, int unit) {
  return place_shared(slot, name, bytes, item, unit, SHARED_BYTES);
}

void* dynamic_shared_array(int slot, const char* name, int item, int unit) {
  return place_shared(slot, name, dynamic_shared_bytes(), item, unit,
                      MOST_SHARED_BYTES);
}

}  // namespace emulator

// --- what the compiler calls (-fsanitize=thread, without its library) ----------------

#define SITE __builtin_return_address(0)
#define EMULATOR_HOOK(name, bytes, access) \
  void __tsan_##name##bytes(void* at) { emulator::touch(at, bytes, access, SITE); }
#define EMULATOR_HOOK_BOTH(name, bytes)                \
  void __tsan_##name##bytes(void* at) {                \
    emulator::touch(at, bytes, emulator::LOAD, SITE);  \
    emulator::touch(at, bytes, emulator::STORE, SITE); \
  }
#define EMULATOR_HOOKS(bytes)                            \
  EMULATOR_HOOK(read, bytes, emulator::LOAD)             \
  EMULATOR_HOOK(write, bytes, emulator::STORE)           \
  EMULATOR_HOOK(unaligned_read, bytes, emulator::LOAD)   \
  EMULATOR_HOOK(unaligned_write, bytes, emulator::STORE) \
  EMULATOR_HOOK_BOTH(read_write, bytes)                  \
  EMULATOR_HOOK_BOTH(unaligned_read_write, bytes)

extern "C" {

EMULATOR_HOOKS(1)
EMULATOR_HOOKS(2)
EMULATOR_HOOKS(4)
EMULATOR_HOOKS(8)
EMULATOR_HOOKS(16)

void __tsan_read_range(void* at, long bytes) {
  emulator::reported_range(at, bytes, emulator::LOAD, SITE);
}
void __tsan_write_range(void* at, long bytes) {
  emulator::reported_range(at, bytes, emulator::STORE, SITE);
}
// Clang copies structures by these.
void* __tsan_memcpy(void* to, const void* from, size_t bytes) {
  emulator::reported_range(from, int64_t(bytes), emulator::LOAD, SITE);
  emulator::reported_range(to, int64_t(bytes), emulator::STORE, SITE);
  return memcpy(to, from, bytes);
}
void* __tsan_memmove(void* to, const void* from, size_t bytes) {
  emulator::reported_range(from, int64_t(bytes), emulator::LOAD, SITE);
  emulator::reported_range(to, int64_t(bytes), emulator::STORE, SITE);
  return memmove(to, from, bytes);
}
void* __tsan_memset(void* to, int value, size_t bytes) {
  emulator::reported_range(to, int64_t(bytes), emulator::STORE, SITE);
  return memset(to, value, bytes);
}
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

// An address that the type of what lies there does not allow (-fsanitize=alignment).
// The first field of what the compiler knows about it is the place in the source.
struct EmulatorMismatch {
  const char* file;
  uint32_t line, column;
  const void* type;
  unsigned char log_alignment, kind;
};
void __ubsan_handle_type_mismatch_v1(const EmulatorMismatch* about, const char* at) {
  using namespace emulator;
  if (!now.thread) return;
  const Array* array = shared_space.at(at) ? shared_space.at(at) : global_space.at(at);
  fail("alignment", SITE, nullptr,
       "wants a vector at byte %lld of %s in {0}: that must be a multiple of %d",
       (long long)(array ? at - array->first : 0), array ? array->name : "no array",
       1 << about->log_alignment);
}

// --- what Python calls --------------------------------------------------------------

// Make room for the arrays of one run; returns whether there is any.
int emulator_open(int trace) {
  using namespace emulator;
  arguments = 0, tracing = trace != 0, touches = 0;
  events.clear(), steps.clear();
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(emulator_open), &info))
    library = static_cast<const char*>(info.dli_fbase);
  const bool some = global_space.open(GLOBAL_SLOTS, 32) ||  // the limit of memory that
                    global_space.open(GLOBAL_SLOTS, 28) ||  // is only reserved differs
                    global_space.open(GLOBAL_SLOTS, 24);
  return some && shared_space.open(SHARED_SLOTS, 20);
}

// Copy an argument in; returns its address for the kernel, or none without memory.
void* emulator_argument(const char* name, const void* data, int64_t bytes, int item,
                        int unit, int writable) {
  using namespace emulator;
  if (!global_space.place(arguments, name, bytes, item, unit)) return nullptr;
  Array& array = global_space.arrays[size_t(arguments++)];
  array.writable = writable != 0;
  if (writable) watch(array);
  memcpy(array.first, data, size_t(bytes));
  return array.first;
}

void emulator_result(int argument, void* data) {
  const emulator::Array& array = emulator::global_space.arrays[size_t(argument)];
  memcpy(data, array.first, size_t(array.bytes));
}

const void* emulator_library() { return emulator::library; }

int64_t emulator_trace(const void** first) {
  *first = emulator::events.data();
  return int64_t(emulator::events.size());
}

void emulator_close() {
  emulator::global_space.close();
  emulator::shared_space.close();
  std::vector<emulator::Event>().swap(emulator::events);
}
}
