/* A target of four threads that make spans: `load SECONDS SPANS_PER_SECOND`, 0 for as many as
 * it can. A request is one root with four children, so five spans. Prints a line when it is
 * ready, waits for a line on standard input, and prints how many spans it made at the end. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { THREADS = 4, CHILDREN = 4, SPANS = 1 + CHILDREN };
static const uint64_t SECOND = 1000000000;
/* Requests are made in bursts this often: a sleep a request would measure the timer. */
static const uint64_t BURST = 10000000;

static uint64_t seconds, spans_per_second;
static volatile uint64_t sink;

/* Uses a register it must save: most functions of servers do, and so begin with `push`. */
#define BEGIN_WITH_PUSH __asm__ volatile("" ::: "rbx")

__attribute__((noinline, noclone)) uint64_t load_step(uint64_t work) {
  BEGIN_WITH_PUSH;
  sink += work;
  return work ^ sink;
}

__attribute__((noinline, noclone)) uint64_t load_request(uint64_t work) {
  uint64_t result = work;
  for (int child = 0; child < CHILDREN; child++) result += load_step(result);
  return result;
}

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static void *thread(void *made) {
  uint64_t begin = now(), end = begin + seconds * SECOND, requests = 0;
  for (uint64_t at = begin; at < end; at = now()) {
    uint64_t due = UINT64_MAX;
    if (spans_per_second)
      due = (at - begin + BURST) / 1000 * spans_per_second / SPANS / THREADS / (SECOND / 1000);
    for (int i = 0; requests < due && i < 1000; i++, requests++) load_request(requests);
    if (requests >= due) {
      struct timespec nap = {0, (long)BURST};
      nanosleep(&nap, NULL);
    }
  }
  *(uint64_t *)made = requests * SPANS;
  return NULL;
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  seconds = strtoull(argv[1], NULL, 10);
  spans_per_second = strtoull(argv[2], NULL, 10);
  puts("ready");
  fflush(stdout);
  if (getchar() == EOF) return 1;

  pthread_t threads[THREADS];
  uint64_t made[THREADS], sum = 0;
  uint64_t begin = now();
  for (int i = 0; i < THREADS; i++)
    if (pthread_create(&threads[i], NULL, thread, &made[i])) return 1;
  for (int i = 0; i < THREADS; i++) {
    pthread_join(threads[i], NULL);
    sum += made[i];
  }
  printf("{\"spans\": %llu, \"seconds\": %.3f}\n", (unsigned long long)sum,
         (double)(now() - begin) / (double)SECOND);
  return 0;
}
