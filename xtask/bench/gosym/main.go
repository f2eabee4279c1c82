// What Go's own library makes of a stripped program: debug/gosym, by which `go tool addr2line` and
// `go tool pprof` read function tables. Finds the functions whose names end in WORD, and prints how
// many there are, of how many.
package main

import (
	"debug/elf"
	"debug/gosym"
	"fmt"
	"os"
	"strings"
)

func main() {
	if len(os.Args) != 3 {
		check(fmt.Errorf("usage: gosym FILE WORD"))
	}
	file, err := elf.Open(os.Args[1])
	check(err)
	functions, code := file.Section(".gopclntab"), file.Section(".text")
	if functions == nil || code == nil {
		check(fmt.Errorf("%s has no .gopclntab or no .text", os.Args[1]))
	}
	data, err := functions.Data()
	check(err)
	table, err := gosym.NewTable(nil, gosym.NewLineTable(data, code.Addr))
	check(err)
	found := 0
	for i := range table.Funcs {
		if strings.HasSuffix(table.Funcs[i].Name, os.Args[2]) {
			found++
		}
	}
	fmt.Printf("{\"functions\": %d, \"found\": %d, \"peak_kib\": %d}\n", len(table.Funcs), found, peak())
}

// proc(5): the most memory that this process had at once.
func peak() (kib int) {
	status, err := os.ReadFile("/proc/self/status")
	check(err)
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	_, err = fmt.Sscan(rest, &kib)
	check(err)
	return kib
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
