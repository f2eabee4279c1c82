/* What Qprof is measured against, as little of it as there can be: hand-written BPF programs under
 * uprobe_multi links, and nothing but the kernel's own interface.
 *
 *   probe pair PID     a record at the entry and, by a return probe, at the return of each function
 *   probe count PID    counts the hits of each site
 *
 * Standard input: lines `PATH OFFSET` (offsets in the file, decimal), then the line `go`. Prints
 * `attached`; ends at the next line or the end of its input. `pair` then prints how many records
 * it read and lost, `count` the hits, a line a site, in the order they were given. */
#include <errno.h>
#include <linux/bpf.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Of kernels newer than the headers may be: include/uapi/linux/bpf.h of 6.6. */
enum { UPROBE_MULTI = 48, UPROBE_MULTI_RETURN = 1 };
struct link_create {
  uint32_t program, target, attach_type, flags;
  uint64_t path, offsets, ref_ctr_offsets, cookies;
  uint32_t count, uprobe_flags, pid, pad;
};

/* As large as a Qprof event with one captured word, and with what it is made of. */
struct record {
  uint64_t time, lane, frame, return_address, thread, probe, kind, word;
};
_Static_assert(sizeof(struct record) == 64, "the record Qprof is compared with");

enum { MAX_SITES = 1 << 17, RING = 8 << 20, ENTRY = 1, RETURN = 2, DRAIN_MS = 10 };

static struct site {
  char *path;
  uint64_t offset;
} sites[MAX_SITES];
static unsigned site_count;

static void die(const char *what) {
  fprintf(stderr, "probe: %s: %s\n", what, strerror(errno));
  exit(1);
}

static long bpf(int command, void *attr, size_t size) {
  return syscall(__NR_bpf, command, attr, size);
}

static int make_map(uint32_t type, uint32_t key, uint32_t value, uint32_t entries) {
  union bpf_attr attr = {.map_type = type, .key_size = key, .value_size = value,
                         .max_entries = entries};
  int fd = (int)bpf(BPF_MAP_CREATE, &attr, sizeof attr);
  if (fd < 0) die("cannot make a BPF map");
  return fd;
}

/* ---- The programs: a jump's offset counts instructions, of which MAP is two ---------------- */

#define INSN(c, d, s, o, i) \
  ((struct bpf_insn){.code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i)})
#define MOV(d, s) INSN(BPF_ALU64 | BPF_MOV | BPF_X, d, s, 0, 0)
#define MOV_IMM(d, i) INSN(BPF_ALU64 | BPF_MOV | BPF_K, d, 0, 0, i)
#define ADD_IMM(d, i) INSN(BPF_ALU64 | BPF_ADD | BPF_K, d, 0, 0, i)
#define SHIFT_RIGHT(d, i) INSN(BPF_ALU64 | BPF_RSH | BPF_K, d, 0, 0, i)
#define LOAD(d, s, o) INSN(BPF_LDX | BPF_MEM | BPF_DW, d, s, o, 0)
#define STORE(d, s, o) INSN(BPF_STX | BPF_MEM | BPF_DW, d, s, o, 0)
#define STORE_IMM(d, o, i) INSN(BPF_ST | BPF_MEM | BPF_DW, d, 0, o, i)
#define STORE_IMM_32(d, o, i) INSN(BPF_ST | BPF_MEM | BPF_W, d, 0, o, i)
#define ATOMIC_ADD(d, s, o) INSN(BPF_STX | BPF_ATOMIC | BPF_DW, d, s, o, BPF_ADD)
#define CALL(f) INSN(BPF_JMP | BPF_CALL, 0, 0, 0, f)
#define SKIP_IF_EQUAL(r, i, o) INSN(BPF_JMP | BPF_JEQ | BPF_K, r, 0, o, i)
#define SKIP_UNLESS_EQUAL(r, i, o) INSN(BPF_JMP | BPF_JNE | BPF_K, r, 0, o, i)
#define EXIT INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)
#define MAP(d, fd) INSN(BPF_LD | BPF_IMM | BPF_DW, d, BPF_PSEUDO_MAP_FD, 0, fd), INSN(0, 0, 0, 0, 0)
/* `*(counts + key)++` with the key in 4 bytes at fp-72; 8 instructions. */
#define COUNT_UP(fd)                                                                            \
  MAP(1, fd), MOV(2, 10), ADD_IMM(2, -72), CALL(BPF_FUNC_map_lookup_elem), SKIP_IF_EQUAL(0, 0, 2),     \
      MOV_IMM(1, 1), ATOMIC_ADD(0, 1, 0)

#define FIELD(name) ((short)(offsetof(struct record, name) - sizeof(struct record)))
#define STACK_POINTER 152 /* struct pt_regs, x86-64 */

static int load(const struct bpf_insn *code, size_t count) {
  static char log[1 << 16];
  union bpf_attr attr = {.prog_type = BPF_PROG_TYPE_KPROBE,
                         .insn_cnt = (uint32_t)count,
                         .insns = (uintptr_t)code,
                         .license = (uintptr_t) "GPL",
                         .log_level = 1,
                         .log_size = sizeof log,
                         .log_buf = (uintptr_t)log,
                         .expected_attach_type = UPROBE_MULTI};
  int fd = (int)bpf(BPF_PROG_LOAD, &attr, sizeof attr);
  if (fd < 0) {
    fputs(log, stderr);
    die("the kernel refuses the program");
  }
  return fd;
}

static int load_record(int kind, int pid, int ring, int lost) {
  const struct bpf_insn code[] = {
      MOV(6, 1),
      CALL(BPF_FUNC_ktime_get_ns),
      STORE(10, 0, FIELD(time)),
      CALL(BPF_FUNC_get_current_pid_tgid),
      STORE(10, 0, FIELD(thread)),
      STORE(10, 0, FIELD(lane)),
      SHIFT_RIGHT(0, 32),
      SKIP_UNLESS_EQUAL(0, pid, 32),
      MOV(1, 6),
      CALL(BPF_FUNC_get_attach_cookie),
      STORE(10, 0, FIELD(probe)),
      LOAD(3, 6, STACK_POINTER),
      /* After the return the slot is the word that was popped. */
      ADD_IMM(3, kind == RETURN ? -8 : 0),
      STORE(10, 3, FIELD(frame)),
      STORE_IMM(10, FIELD(return_address), 0),
      STORE_IMM(10, FIELD(kind), kind),
      STORE_IMM(10, FIELD(word), 0),
      /* An entry reads the return address, a return has none to read. */
      MOV_IMM(1, kind),
      SKIP_UNLESS_EQUAL(1, ENTRY, 4),
      MOV(1, 10),
      ADD_IMM(1, FIELD(return_address)),
      MOV_IMM(2, 8),
      CALL(BPF_FUNC_probe_read_user),
      MAP(1, ring),
      MOV(2, 10),
      ADD_IMM(2, -(int)sizeof(struct record)),
      MOV_IMM(3, sizeof(struct record)),
      MOV_IMM(4, BPF_RB_NO_WAKEUP),
      CALL(BPF_FUNC_ringbuf_output),
      SKIP_IF_EQUAL(0, 0, 9),
      STORE_IMM_32(10, -72, 0),
      COUNT_UP(lost),
      MOV_IMM(0, 0),
      EXIT,
  };
  return load(code, sizeof code / sizeof *code);
}

static int load_count(int pid, int counts) {
  const struct bpf_insn code[] = {
      MOV(6, 1),
      CALL(BPF_FUNC_get_current_pid_tgid),
      SHIFT_RIGHT(0, 32),
      SKIP_UNLESS_EQUAL(0, pid, 11),
      MOV(1, 6),
      CALL(BPF_FUNC_get_attach_cookie),
      INSN(BPF_STX | BPF_MEM | BPF_W, 10, 0, -72, 0),
      COUNT_UP(counts),
      MOV_IMM(0, 0),
      EXIT,
  };
  return load(code, sizeof code / sizeof *code);
}

/* ---- Attaching ---------------------------------------------------------------------------- */

static void read_sites(void) {
  char line[4096];
  while (fgets(line, sizeof line, stdin)) {
    line[strcspn(line, "\n")] = 0;
    if (!strcmp(line, "go")) return;
    char *blank = strrchr(line, ' ');
    if (!blank || site_count == MAX_SITES) {
      errno = EINVAL;
      die("a line of the input is no site, or there are too many");
    }
    *blank = 0;
    sites[site_count].path = strdup(line);
    sites[site_count++].offset = strtoull(blank + 1, NULL, 10);
  }
  errno = EINVAL;
  die("the input ends without `go`");
}

/* A link a file; it lives as long as we do. */
static void attach(int program, uint32_t flags) {
  static uint64_t offsets[MAX_SITES], cookies[MAX_SITES];
  for (unsigned first = 0, next; first < site_count; first = next) {
    struct link_create attr = {.program = (uint32_t)program, .attach_type = UPROBE_MULTI};
    for (next = first; next < site_count && !strcmp(sites[next].path, sites[first].path); next++) {
      offsets[attr.count] = sites[next].offset;
      cookies[attr.count++] = next;
    }
    attr.path = (uintptr_t)sites[first].path;
    attr.offsets = (uintptr_t)offsets;
    attr.cookies = (uintptr_t)cookies;
    attr.uprobe_flags = flags;
    if (bpf(BPF_LINK_CREATE, &attr, sizeof attr) < 0) die(sites[first].path);
  }
}

static uint64_t value_of(int map, uint32_t key) {
  uint64_t value = 0;
  union bpf_attr attr = {.map_fd = (uint32_t)map, .key = (uintptr_t)&key,
                         .value = (uintptr_t)&value};
  if (bpf(BPF_MAP_LOOKUP_ELEM, &attr, sizeof attr)) die("cannot read a BPF map");
  return value;
}

static int told_to_end(int timeout) {
  struct pollfd input = {.fd = 0, .events = POLLIN};
  return poll(&input, 1, timeout) != 0;
}

/* ---- What it does ------------------------------------------------------------------------- */

static uint64_t drained; /* records */

static void drain(uint64_t *consumer, const uint64_t *producer, const char *data) {
  uint64_t at = *consumer, end = __atomic_load_n(producer, __ATOMIC_ACQUIRE);
  while (at < end) {
    uint32_t length = __atomic_load_n((const uint32_t *)(data + at % RING), __ATOMIC_ACQUIRE);
    if (length & BPF_RINGBUF_BUSY_BIT) break;
    at += (length + BPF_RINGBUF_HDR_SZ + 7) / 8 * 8;
    drained++;
  }
  __atomic_store_n(consumer, at, __ATOMIC_RELEASE);
}

static void pair(int pid) {
  int ring = make_map(BPF_MAP_TYPE_RINGBUF, 0, 0, RING);
  int lost = make_map(BPF_MAP_TYPE_ARRAY, 4, 8, 1);
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  uint64_t *consumer = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, ring, 0);
  char *rest = mmap(NULL, page + 2 * (size_t)RING, PROT_READ, MAP_SHARED, ring, (off_t)page);
  if (consumer == MAP_FAILED || rest == MAP_FAILED) die("cannot map the ring");
  attach(load_record(ENTRY, pid, ring, lost), 0);
  attach(load_record(RETURN, pid, ring, lost), UPROBE_MULTI_RETURN);
  puts("attached");
  fflush(stdout);
  while (!told_to_end(DRAIN_MS)) drain(consumer, (uint64_t *)rest, rest + page);
  drain(consumer, (uint64_t *)rest, rest + page);
  printf("{\"records\": %llu, \"lost\": %llu}\n", (unsigned long long)drained,
         (unsigned long long)value_of(lost, 0));
}

static void count(int pid) {
  int counts = make_map(BPF_MAP_TYPE_ARRAY, 4, 8, MAX_SITES);
  attach(load_count(pid, counts), 0);
  puts("attached");
  fflush(stdout);
  while (!told_to_end(1000)) {
  }
  for (unsigned i = 0; i < site_count; i++)
    printf("%llu\n", (unsigned long long)value_of(counts, i));
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  /* Kernels before 5.11 count BPF maps as locked memory. */
  struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
  setrlimit(RLIMIT_MEMLOCK, &all);
  read_sites();
  if (!strcmp(argv[1], "pair"))
    pair(atoi(argv[2]));
  else if (!strcmp(argv[1], "count"))
    count(atoi(argv[2]));
  else
    return 2;
  return 0;
}
