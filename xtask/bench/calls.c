/* A target that measures what a call costs it: `calls`. Prints a line when it is ready. For each
 * line `BURSTS CALLS` on standard input it makes BURSTS bursts of CALLS calls of each function,
 * resting between bursts so that whoever reads a ring can keep up, and prints the median CPU time
 * of a call in nanoseconds, a JSON object a line. It is the thread's own CPU time: what else runs
 * on the machine does not count. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { MAX_BURSTS = 10000 };

/* In assembly, because what a function begins with is what is measured. Each is what compilers
 * make: of -fno-omit-frame-pointer, -fcf-protection, a clang with -fpatchable-function-entry or a
 * USDT-like nop, and of a leaf function. */
#define FUNCTION(name, begin, end)                                                              \
  __asm__(".text\n.p2align 4\n.globl " #name "\n.type " #name ",@function\n" #name ":\n"        \
          ".cfi_startproc\n" begin "lea 1(%rdi), %rax\n" end "ret\n.cfi_endproc\n"              \
          ".size " #name ", .-" #name "\n");                                                    \
  uint64_t name(uint64_t);                                                                      \
  /* One call site, and the loop's own jump is the first cheap instruction after the return. */ \
  __attribute__((noinline, noclone)) static uint64_t burst_##name(uint64_t calls) {             \
    uint64_t sum = 0;                                                                           \
    for (uint64_t call = 0; call < calls; call++) sum ^= name(sum);                             \
    return sum;                                                                                 \
  }

#define FRAME "push %rbp\n.cfi_def_cfa_offset 16\nmov %rsp, %rbp\n"
#define NO_FRAME "pop %rbp\n.cfi_def_cfa_offset 8\n"

FUNCTION(call_push, FRAME, NO_FRAME)
FUNCTION(call_endbr64, "endbr64\n" FRAME, NO_FRAME)
FUNCTION(call_nop5, ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00\n" FRAME, NO_FRAME)
FUNCTION(call_single_step, "mov %rdi, %rax\n", "")

static const struct {
  const char *name;
  uint64_t (*burst)(uint64_t calls);
} KINDS[] = {
    {"push", burst_call_push},
    {"endbr64", burst_call_endbr64},
    {"nop5", burst_call_nop5},
    {"single_step", burst_call_single_step},
};
enum { COUNT = sizeof KINDS / sizeof *KINDS };

static volatile uint64_t sink;

static uint64_t used(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(uint64_t (*burst)(uint64_t), unsigned bursts, uint64_t calls) {
  static double each[MAX_BURSTS];
  const struct timespec rest = {0, 4000000};
  for (unsigned i = 0; i < bursts; i++) {
    uint64_t before = used();
    sink += burst(calls);
    each[i] = (double)(used() - before) / (double)calls;
    nanosleep(&rest, NULL);
  }
  qsort(each, bursts, sizeof *each, ascending);
  return each[bursts / 2];
}

int main(void) {
  unsigned bursts;
  unsigned long long calls;
  puts("ready");
  fflush(stdout);
  while (scanf("%u %llu", &bursts, &calls) == 2) {
    if (bursts < 1 || bursts > MAX_BURSTS || calls < 1) return 2;
    for (unsigned kind = 0; kind < COUNT; kind++)
      printf("%s\"%s\": %.2f", kind ? ", " : "{", KINDS[kind].name,
             median(KINDS[kind].burst, bursts, calls));
    puts("}");
    fflush(stdout);
  }
  return 0;
}
