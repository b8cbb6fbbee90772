// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package tape

import (
	_ "embed"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// The tapes of the lab: a transcript is that of a drive with one of them.
const (
	labCapacity = 8 << 20
	labWarning  = 1 << 20
)

// transcript does many things with a drive and writes down what it answers. That of
// Linux's driver is in testdata/drive.txt; TestLabDrive compares it with the drive of
// the lab, and TestTranscript with the virtual one.
type transcript struct {
	strings.Builder
	t    *testing.T
	open func() (drive, error)
	d    drive
}

func (s *transcript) say(what string, n int, err error) {
	name := "ok"
	for text, kind := range map[string]error{
		"END": errEnd, "SMALL": errSmall, "IO": errIO, "NOTAPE": errNoTape, "ARGUMENT": errArgument, "BUSY": errBusy,
	} {
		if errors.Is(err, kind) {
			name = text
		}
	}
	if err != nil && name == "ok" {
		name = err.Error()
	}
	where := "?"
	if p, err := s.d.position(); err == nil {
		where = fmt.Sprint(p)
	}
	fmt.Fprintf(s, "%-28s %7d %-8s at %s\n", what, n, name, where)
}

func (s *transcript) write(n int) {
	b := aligned(n)
	copy(b, content(n, n))
	m, err := s.d.write(b)
	s.say(fmt.Sprintf("write %d", n), m, err)
}

func (s *transcript) read(n int) {
	m, err := s.d.read(aligned(n))
	s.say(fmt.Sprintf("read %d", n), m, err)
}

func (s *transcript) do(op operation, n int) {
	s.say(fmt.Sprintf("%v %d", op, n), 0, s.d.do(op, n))
}

func (s *transcript) reopen() {
	err := s.d.close()
	if err == nil {
		s.d, err = s.open()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	fmt.Fprintln(s, "close and open") // a virtual tape is at its beginning then
}

// fill writes until the warning comes, and then until nothing fits any more.
func (s *transcript) fill(n int) {
	b := aligned(n)
	count := 0
	for ; count < 1000; count++ {
		if _, err := s.d.write(b); err != nil {
			s.say(fmt.Sprintf("after %d times %d", count, n), 0, err)
			break
		}
	}
	ends, more := 0, 0
	for ends < 2 && more < 1000 { // each warning is followed by a write that succeeds, up to the end
		if _, err := s.d.write(b); err != nil {
			ends++
			continue
		}
		ends = 0
		more++
	}
	s.say(fmt.Sprintf("%d more times %d", more, n), 0, nil)
}

// run is what is done with the drive.
func (s *transcript) run() string {
	var err error
	if s.d, err = s.open(); err != nil {
		s.t.Fatal(err)
	}
	s.do(opRewind, 1)
	s.do(opSetBlock, 0)
	s.read(65536) // of a blank tape
	s.do(opEnd, 1)
	s.do(opRewind, 1)
	for _, n := range []int{512, 65536, 100, 1 << 20, 1536} {
		s.write(n)
	}
	s.do(opMark, 1)
	s.write(1024)
	s.reopen() // ends the file
	s.do(opRewind, 1)
	for _, n := range []int{65536, 65536, 50, 1 << 20, 65536, 65536, 65536, 65536, 65536, 65536} {
		s.read(n)
	}
	s.do(opRewind, 1)
	s.do(opSpace, 1)
	s.read(65536)
	s.do(opSpace, 1)
	s.do(opSpace, 1) // nothing is there
	s.do(opEnd, 1)
	s.do(opBack, 2)
	s.read(65536)
	s.do(opEnd, 1)
	s.do(opBack, 3) // there are two
	s.do(opSeek, 2)
	s.read(65536)
	s.do(opSeek, 1000)
	s.do(opSeek, 6)
	s.write(2048) // writes over what is behind
	s.do(opMark, 1)
	s.read(65536)
	s.do(opRewind, 1)
	s.do(opSetBlock, 512)
	s.write(4096)
	s.write(700)
	s.do(opMark, 1)
	s.do(opRewind, 1)
	s.read(1024)
	s.read(65536)
	s.read(65536)
	s.read(65536)
	s.do(opRewind, 1)
	s.do(opSetBlock, 0)
	s.read(65536) // fixed blocks are blocks
	s.do(opRewind, 1)
	s.write(2048)
	s.do(opMark, 1)
	s.do(opRewind, 1)
	s.do(opSetBlock, 512)
	s.read(65536) // a block of another length
	s.do(opRewind, 1)
	s.do(opSetBlock, 0)
	s.fill(65536)
	s.do(opMark, 1)
	s.do(opRewind, 1)
	s.do(opSetBlock, 512)
	s.fill(65536)
	s.do(opRewind, 1)
	s.do(opSetBlock, 0)
	s.write(512)
	s.do(opMark, 1)
	if err := s.d.close(); err != nil {
		s.t.Fatal(err)
	}
	return s.String()
}

//go:embed testdata/drive.txt
var driverTranscript string

// compare compares a transcript with that of Linux's driver.
func (s *transcript) compare() {
	s.t.Helper()
	got := s.run()
	g, w := strings.Split(got, "\n"), strings.Split(driverTranscript, "\n")
	for i := range max(len(g), len(w)) {
		var a, b string
		if i < len(g) {
			a = g[i]
		}
		if i < len(w) {
			b = w[i]
		}
		if a != b {
			s.t.Errorf("line %d:\n got %s\nwant %s", i+1, a, b)
		}
	}
}

func TestTranscript(t *testing.T) {
	dir := virtualDir(t, fmt.Sprintf(`{"capacity_bytes": %d, "early_warning_bytes": %d}`, labCapacity, labWarning))
	s := &transcript{t: t, open: func() (drive, error) { return openVirtual(dir, true, nil) }}
	s.compare()
}
