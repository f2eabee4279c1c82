/* A target of a thousand functions that watches itself: `many`. One thread calls one of them
 * every 50 us, in turn, and reads the clock all the time. Prints a line when it is ready. Input:
 * a line `begin` forgets, a line `end` prints the longest time since then between two readings of
 * the clock, in microseconds; its end ends the program. */
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { FIRST = 1000, LAST = 1999 };
static const uint64_t PERIOD = 50000, ASK = 5000000;

#define ONES(X, n) X(n##0) X(n##1) X(n##2) X(n##3) X(n##4) X(n##5) X(n##6) X(n##7) X(n##8) X(n##9)
#define TENS(X, n)                                                                           \
  ONES(X, n##0) ONES(X, n##1) ONES(X, n##2) ONES(X, n##3) ONES(X, n##4) ONES(X, n##5)        \
  ONES(X, n##6) ONES(X, n##7) ONES(X, n##8) ONES(X, n##9)
#define ALL(X)                                                                               \
  TENS(X, 10) TENS(X, 11) TENS(X, 12) TENS(X, 13) TENS(X, 14) TENS(X, 15) TENS(X, 16)        \
  TENS(X, 17) TENS(X, 18) TENS(X, 19)

static volatile uint64_t sink;

/* Uses a register it must save: most functions of servers do, and so begin with `push`. */
#define BEGIN_WITH_PUSH __asm__ volatile("" ::: "rbx")

#define FUNCTION(n)                                                  \
  __attribute__((noinline, noclone)) uint64_t many_##n(uint64_t x) { \
    BEGIN_WITH_PUSH;                                                 \
    sink += x;                                                       \
    return x + n;                                                    \
  }
ALL(FUNCTION)

/* Each has a call site, and so a return address, of its own. */
static void call(unsigned number, uint64_t x) {
  switch (number) {
#define CASE(n)           \
  case n:                 \
    sink ^= many_##n(x);  \
    break;
    ALL(CASE)
  }
}

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

int main(void) {
  char line[16];
  unsigned next = FIRST;
  uint64_t last = now(), due = last, ask = last, longest = 0;
  setvbuf(stdin, NULL, _IONBF, 0);
  puts("ready");
  fflush(stdout);
  for (;;) {
    uint64_t at = now();
    if (at - last > longest) longest = at - last;
    last = at;
    if (at >= due) {
      call(next, at);
      next = next == LAST ? FIRST : next + 1;
      due = at + PERIOD;
    }
    if (at < ask) continue;
    ask = at + ASK;
    struct pollfd input = {.fd = 0, .events = POLLIN};
    if (poll(&input, 1, 0) <= 0) continue;
    if (!fgets(line, sizeof line, stdin)) return 0;
    if (!strcmp(line, "end\n")) {
      printf("{\"longest_us\": %llu}\n", (unsigned long long)longest / 1000);
      fflush(stdout);
    }
    longest = 0;
    last = now();
  }
}
