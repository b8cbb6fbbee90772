// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package tape

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmstream/vmstream/sinks"
	"github.com/vmstream/vmstream/sinks/sinktest"
)

// The tests in this file run in the guest of TestLab, with Linux's own driver.

// labDrive is the drive of the lab.
func labDrive(t *testing.T) string {
	t.Helper()
	path := os.Getenv("TAPE_NST")
	if path == "" {
		t.Skip("runs in the guest of TestLab")
	}
	return path
}

// labTarget is a target of the lab's drive.
func labTarget(t *testing.T, options string) string {
	t.Helper()
	return "tape:" + labDrive(t) + "?wait=10s&buffer=4M" + options
}

// mtx moves tapes.
func mtx(t *testing.T, args ...string) error {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "mtx", append([]string{"-f", os.Getenv("CHANGER")}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mtx %v: %w\n%s", args, err, out)
	}
	return nil
}

// openLab opens the drive, which may have to tell first that it has been reset.
func openLab(path string, writing bool) (drive, error) {
	for n := 0; ; n++ {
		d, err := openDevice(path, writing)
		if !errors.Is(err, errNoTape) || n == 50 {
			return d, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// firstTape has the changer put the first tape in.
func firstTape(t *testing.T) {
	t.Helper()
	d, err := openDevice(labDrive(t), false)
	if err == nil {
		err = errors.Join(d.do(opOffline, 1), d.close())
	}
	if err != nil && !errors.Is(err, errNoTape) {
		t.Fatal(err)
	}
	err = mtx(t, "unload") // fails if nothing is in the drive
	if lerr := mtx(t, "load", "1", "0"); lerr != nil {
		t.Fatal(errors.Join(err, lerr))
	}
}

func TestLabDrive(t *testing.T) {
	path := labDrive(t)
	s := &transcript{t: t, open: func() (drive, error) { return openLab(path, true) }}
	s.compare()
}

// TestLabAlerts has the drive tell that it wants to be cleaned, once.
func TestLabAlerts(t *testing.T) {
	path := labDrive(t)
	firstTape(t)
	d, err := openLab(path, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range [][]string{{"clean the drive now"}, nil} {
		got, err := d.(alerter).alerts()
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("alerts %q, %v, want %q", got, err, want)
		}
	}
	if err := d.close(); err != nil {
		t.Fatal(err)
	}
}

// TestLabBlocks has streams in blocks of every length come back, also when the drive is
// opened anew in between.
func TestLabBlocks(t *testing.T) {
	for _, mode := range []string{"0", "1"} {
		for _, block := range []string{"512", "1K", "10K", "64K", "256K", "1M"} {
			t.Run(block+" fixed="+mode, func(t *testing.T) {
				a, b := content(300_001, 1), content(700_000, 2)
				s, _ := openTarget(t, labTarget(t, "&relabel=1&block="+block+"&fixed="+mode))
				mustPut(t, s, "a", a)
				mustGet(t, s, "a", a)
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				s, _ = openTarget(t, labTarget(t, ""))
				mustPut(t, s, "b", b)
				mustPut(t, s, "empty", nil)
				if got, want := keys(t, s), []string{"a 300001", "b 700000", "empty 0"}; !slices.Equal(got, want) {
					t.Errorf("list has %q, want %q", got, want)
				}
				mustGet(t, s, "a", a)
				mustGet(t, s, "file=3", b)
				mustGet(t, s, "id=id-empty", nil)
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

// TestBigLabContract has the contract kept on a tape that has room for all of it.
func TestBigLabContract(t *testing.T) {
	labDrive(t)
	sinktest.Run(t, sinktest.Options{Open: func(t testing.TB) (sinks.Sink, string) {
		s, _ := openTarget(t, "tape:"+os.Getenv("TAPE_NST")+"?wait=10s")
		return s, "vm/"
	}})
}

// TestLabSpan has a stream on three volumes, which the changer puts in.
func TestLabSpan(t *testing.T) {
	change := "&change=" + url.QueryEscape("mtx -f "+os.Getenv("CHANGER")+" next 0")
	for _, options := range []string{"&block=64K", "&block=512&fixed=1"} {
		firstTape(t)
		a, b, c := content(3_000_000, 1), content(15_000_000, 2), content(1000, 3)
		s, _ := openTarget(t, labTarget(t, "&relabel=1"+options+change))
		mustPut(t, s, "a", a)
		mustPut(t, s, "b", b)
		mustPut(t, s, "c", c)
		if got := s.vol.label.Volume; got != 3 {
			t.Errorf("%s: they end on volume %d", options, got)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		// It goes around the slots until the volume is there: first is volume 1.
		back := "&change=" + url.QueryEscape("mtx -f "+os.Getenv("CHANGER")+" next 0 || mtx -f "+os.Getenv("CHANGER")+" first 0")
		s, _ = openTarget(t, labTarget(t, back))
		mustGet(t, s, "c", c)
		mustGet(t, s, "b", b)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		firstTape(t)
		s, _ = openTarget(t, labTarget(t, change))
		if got := keys(t, s); !slices.Equal(got, []string{"a 3000000"}) {
			t.Errorf("%s: volume 1 lists %q", options, got)
		}
		mustGet(t, s, "a", a)
		mustGet(t, s, "file=3", b)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	firstTape(t)
}

// TestLabFull has a stream fail for which there is no second tape, and the first one
// be as it was.
func TestLabFull(t *testing.T) {
	target := labTarget(t, "&relabel=1&change=exit+1")
	s, _ := openTarget(t, target)
	a := content(2_000_000, 1)
	mustPut(t, s, "a", a)
	if err := put(t, s, "b", content(9_000_000, 2), sinks.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "volume 2") {
		t.Errorf("got %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	d, err := openDevice(labDrive(t), false)
	if err == nil {
		t.Error("the tape is still in the drive")
		_ = d.close()
	}
	firstTape(t)
	s, _ = openTarget(t, labTarget(t, ""))
	if got := keys(t, s); !slices.Equal(got, []string{"a 2000000"}) {
		t.Errorf("list has %q", got)
	}
	mustGet(t, s, "a", a)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestLabWithoutUs has a tape read by mt, dd and tar.
func TestLabWithoutUs(t *testing.T) {
	for _, options := range []string{"&block=64K", "&block=512&fixed=1", "&block=256K&fixed=1"} {
		path := labDrive(t)
		s, _ := openTarget(t, labTarget(t, "&relabel=1"+options))
		dir := t.TempDir()
		want := content(300_000, 1)
		if err := os.WriteFile(filepath.Join(dir, "disk"), want, 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := exec.CommandContext(t.Context(), "tar", "-C", dir, "-cf", "-", "disk").Output()
		if err != nil {
			t.Fatal(err)
		}
		mustPut(t, s, "first", content(1000, 2))
		mustPut(t, s, "a.tar", b)
		if err := os.Remove(filepath.Join(dir, "disk")); err != nil {
			t.Fatal(err)
		}
		label := *s.vol.label
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		setblk := 0
		if label.Fixed {
			setblk = label.BlockBytes
		}
		script := fmt.Sprintf(`set -e; cd %s; mt -f %[2]s rewind; mt -f %[2]s setblk %[3]d
dd if=%[2]s bs=%[4]d 2>/dev/null | tar -xf -
mt -f %[2]s rewind; mt -f %[2]s fsf 3
dd if=%[2]s bs=%[4]d 2>/dev/null | tar -xf -
dd if=%[2]s bs=%[4]d 2>/dev/null | tar -xf -`, dir, path, setblk, label.BlockBytes)
		if out, err := exec.CommandContext(t.Context(), "sh", "-c", script).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", options, err, out)
		}
		if got, err := os.ReadFile(filepath.Join(dir, "disk")); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes come back: %v", options, len(got), err)
		}
		for _, name := range []string{labelName, readmeName, trailerName} {
			if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
				t.Errorf("%s: %v", options, err)
			}
		}
	}
}

// TestBigLabSpeed compares with what dd does: blocks are copied into a buffer and
// written one after the other. The times are short and the processor is emulated, so
// only what is far off is an error; docs/tape.md has what was measured.
func TestBigLabSpeed(t *testing.T) {
	labDrive(t)
	b := content(48<<20, 1)
	for _, c := range []struct{ block, bytes int }{{512, 1 << 20}, {64 << 10, len(b)}, {256 << 10, len(b)}} {
		dd, ours := time.Hour, time.Hour
		for range 9 { // by turns, so that both meet the same disturbances
			dd = min(dd, writeLikeDD(t, b[:c.bytes], c.block))
			ours = min(ours, writeStream(t, b[:c.bytes], c.block))
		}
		t.Logf("blocks of %d: dd %v, ours %v, %.0f %%", c.block, dd, ours, 100*float64(dd)/float64(ours))
		if float64(dd) < 0.6*float64(ours) {
			t.Errorf("blocks of %d: ours takes %v, dd %v", c.block, ours, dd)
		}
	}
}

// writeLikeDD returns how long it takes to write b and a filemark.
func writeLikeDD(t *testing.T, b []byte, block int) time.Duration {
	t.Helper()
	d, err := openLab(labDrive(t), true)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(d.do(opRewind, 1), d.do(opSetBlock, 0))
	buffer := aligned(block)
	begin := time.Now()
	for p := b; len(p) > 0 && err == nil; p = p[block:] {
		copy(buffer, p)
		_, err = d.write(buffer)
	}
	err = errors.Join(err, d.do(opMark, 1))
	took := time.Since(begin)
	if err = errors.Join(err, d.close()); err != nil {
		t.Fatal(err)
	}
	return took
}

// writeStream returns how long it takes to store b.
func writeStream(t *testing.T, b []byte, block int) time.Duration {
	t.Helper()
	s, _ := openTarget(t, fmt.Sprintf("tape:%s?wait=10s&relabel=1&block=%d", labDrive(t), block)) // with as large a buffer as there is without being asked for
	w, err := s.Create(t.Context(), "a", sinks.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	for p := b; len(p) > 0 && err == nil; p = p[min(len(p), 256<<10):] {
		_, err = w.Write(p[:min(len(p), 256<<10)])
	}
	if err == nil {
		_, err = w.Commit(t.Context(), sinks.End{SizeBytes: int64(len(b))})
	}
	took := time.Since(begin)
	if err = errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	return took
}

// optionsEnv has more options for the target of TestPowerLabBefore.
const optionsEnv = "VMSTREAM_TAPE_OPTIONS"

// TestLabKilled kills a process that writes a stream, which Linux ends with a filemark.
func TestLabKilled(t *testing.T) {
	labDrive(t)
	c := exec.CommandContext(t.Context(), os.Args[0], "-test.run=TestPowerLabBefore")
	c.Env = append(os.Environ(), optionsEnv+"=&relabel=1")
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for lines := bufio.NewScanner(out); !found && lines.Scan(); {
		found = lines.Text() == "written 5 MiB" // 4 of them are in memory
	}
	_ = c.Process.Kill() // it may have ended
	if err := c.Wait(); !found {
		t.Fatalf("it does not write: %v", err)
	}
	TestPowerLabAfter(t)
}

// powerKept is what is on the tape when the power fails.
var powerKept = []int{300_000, 1_234_567}

// TestPowerLabBefore stores streams, and then writes one until the power fails, which
// TestPowerLab sees to.
func TestPowerLabBefore(t *testing.T) {
	s, _ := openTarget(t, labTarget(t, os.Getenv(optionsEnv)))
	for i, n := range powerKept {
		mustPut(t, s, fmt.Sprint("kept-", i), content(n, i))
	}
	w, err := s.Create(t.Context(), "cut", sinks.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for n := range 100 {
		if _, err := w.Write(content(1<<20, n)); err != nil {
			t.Fatal(err)
		}
		fmt.Printf("written %d MiB\n", n+1)
	}
	t.Fatal("the power has not failed")
}

// TestPowerLabAfter finds what was stored, and stores more.
func TestPowerLabAfter(t *testing.T) {
	s, _ := openTarget(t, labTarget(t, ""))
	want := []string{}
	for i, n := range powerKept {
		want = append(want, fmt.Sprintf("kept-%d %d", i, n))
	}
	if got := keys(t, s); !slices.Equal(got, want) {
		t.Errorf("list has %q, want %q", got, want)
	}
	for range 2 {
		for i, n := range powerKept {
			mustGet(t, s, fmt.Sprint("kept-", i), content(n, i))
		}
		mustPut(t, s, time.Now().String(), content(500_000, 7))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
