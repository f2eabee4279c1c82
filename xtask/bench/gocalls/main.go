// A target that measures what a call of a Go function, and a goroutine, costs it. Prints a line when it
// is ready. Then for each line on standard input, a JSON object a line:
//
//	calls BURSTS CALLS: it makes BURSTS bursts of CALLS calls of each function, resting between bursts
//	so that whoever reads a ring can keep up: the median CPU time of a call, in nanoseconds. It is the
//	thread's own CPU time: what else runs on the machine does not count.
//
//	spawn REQUESTS EACH MICROSECONDS: so many requests, one each so many microseconds or as soon as the
//	one before is done, each of which starts EACH goroutines and waits for them: the median of the
//	request's time and of the process's CPU time, a goroutine, in nanoseconds; and how many goroutines
//	there were a second.
package main

import (
	"bufio"
	"fmt"
	"os"
	"runtime"
	"sort"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

const (
	ofProcess = 2 // CLOCK_PROCESS_CPUTIME_ID
	ofThread  = 3 // CLOCK_THREAD_CPUTIME_ID
)

//go:noinline
func leaf(x uint64) uint64 { return x + 1 }

// What calls others has a frame, and looks for room on the stack first.
//
//go:noinline
func oneRet(x uint64) uint64 { return leaf(x) + 1 }

//go:noinline
func fourRets(x uint64) uint64 {
	switch x & 3 {
	case 0:
		return leaf(x) + 3
	case 1:
		return leaf(x) ^ 1
	case 2:
		return leaf(x) | 1
	}
	return leaf(x) << 1
}

func burstOneRet(calls int) (sum uint64) {
	for call := 0; call < calls; call++ {
		sum += oneRet(uint64(call))
	}
	return sum
}

func burstFourRets(calls int) (sum uint64) {
	for call := 0; call < calls; call++ {
		sum += fourRets(uint64(call))
	}
	return sum
}

var sink uint64

func median(values []float64) float64 {
	sort.Float64s(values)
	return values[len(values)/2]
}

func perCall(burst func(int) uint64, bursts, calls int) float64 {
	each := make([]float64, bursts)
	for i := range each {
		before := used(ofThread)
		sink += burst(calls)
		each[i] = float64(used(ofThread)-before) / float64(calls)
		time.Sleep(4 * time.Millisecond)
	}
	return median(each)
}

//go:noinline
func request(goroutines int) {
	var all sync.WaitGroup
	all.Add(goroutines)
	for i := 0; i < goroutines; i++ {
		go task(&all)
	}
	all.Wait()
}

//go:noinline
func task(all *sync.WaitGroup) { all.Done() }

func spawn(requests, each int, pause time.Duration) {
	took, cpu := make([]float64, requests), make([]float64, requests)
	begin := time.Now()
	next := begin
	for i := range took {
		time.Sleep(time.Until(next))
		next = next.Add(pause)
		before, start := used(ofProcess), time.Now()
		request(each)
		took[i] = float64(time.Since(start)) / float64(each)
		cpu[i] = float64(used(ofProcess)-before) / float64(each)
	}
	rate := float64(requests*each) / time.Since(begin).Seconds()
	fmt.Printf("{\"took\": %.2f, \"cpu\": %.2f, \"rate\": %.0f}\n", median(took), median(cpu), rate)
}

func used(clock uintptr) int64 {
	var now syscall.Timespec
	_, _, failed := syscall.RawSyscall(
		syscall.SYS_CLOCK_GETTIME, clock, uintptr(unsafe.Pointer(&now)), 0)
	if failed != 0 {
		panic(failed)
	}
	return now.Nano()
}

func main() {
	runtime.LockOSThread()
	fmt.Println("ready")
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var a, b, c int
		line := lines.Text()
		if n, _ := fmt.Sscanf(line, "calls %d %d", &a, &b); n == 2 && a > 0 && b > 0 {
			one, four := perCall(burstOneRet, a, b), perCall(burstFourRets, a, b)
			fmt.Printf("{\"oneRet\": %.2f, \"fourRets\": %.2f}\n", one, four)
		} else if n, _ := fmt.Sscanf(line, "spawn %d %d %d", &a, &b, &c); n == 3 && a > 0 && b > 0 {
			done := make(chan struct{})
			// On a goroutine that has no thread of its own, as those of servers.
			go func() {
				spawn(a, b, time.Duration(c)*time.Microsecond)
				close(done)
			}()
			<-done
		} else {
			fmt.Fprintf(os.Stderr, "not understood: %s\n", line)
			os.Exit(2)
		}
	}
}
