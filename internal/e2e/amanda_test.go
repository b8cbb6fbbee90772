// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Dumps of levels 0 and 1 are whole on their tapes, and Amanda puts them together.
func TestAmandaLevels(t *testing.T) {
	l := newAmandaLab(t, "--track")
	if out, code := l.run("amcheck", "-c", "lab"); code != 0 || !strings.Contains(out, "Client check: 1 host checked") || !strings.Contains(out, "0 problems found") {
		t.Fatalf("amcheck: %d\n%s", code, out)
	}
	var content []string
	for i := range 3 {
		if out, code := l.dump(); code != 0 {
			t.Fatalf("dump %d: %d\n%s", i, code, out)
		}
		content = append(content, l.machine.keep(t, "content"+string(rune('0'+i))))
		l.machine.write(t, uint64(10+i), int64(i+4)*(4<<20), 1<<20)
	}
	dumps := l.find()
	if len(dumps) != 3 || dumps[0].level != "0" || dumps[1].level != "1" || dumps[2].level != "1" {
		t.Fatalf("amadmin find has %+v", dumps)
	}
	var sizes []int64
	for _, d := range dumps {
		path := l.fetch(d.date)
		good(t, program(t), "verify", "--from", path)
		st, err := os.Stat(path)
		must(t, err)
		sizes = append(sizes, st.Size())
	}
	if sizes[1] > sizes[0]/4 || sizes[2] > sizes[0]/2 {
		t.Errorf("the dumps have %d bytes", sizes)
	}

	// Each dump of level 1 is one on that of level 0.
	for i := 1; i < 3; i++ {
		dir := l.owned("level-1-" + dumps[i].date)
		for _, d := range []found{dumps[0], dumps[i]} {
			if out, code := l.extract(dir, d.date); code != 0 {
				t.Fatalf("level %s: %d\n%s", d.level, code, out)
			}
		}
		l.machine.sameAs(t, dir, content[i])
	}
	dir := l.owned("alone")
	if out, code := l.extract(dir, dumps[1].date); code == 0 {
		t.Errorf("level 1 went without level 0:\n%s", out)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("level 1 alone has left %v", entries)
	}
	if out, code := l.run("amcheckdump", "lab"); code != 0 || !strings.Contains(out, "successfully validated") {
		t.Errorf("amcheckdump: %d\n%s", code, out)
	}
	l.standsAlone(t)
}

// extract restores a dump through the application.
func (l *amandaLab) extract(dir, date string) (string, int) {
	l.t.Helper()
	code := 0
	said, _ := l.unlessAborted(func() (said string, err error) {
		said, code = l.run("amfetchdump", "--extract", "--target", dir, "lab", "localhost", "^web01$", date)
		return said, nil
	})
	return said, code
}

// A dump that fails in the middle is reported, and what Amanda keeps of it is not
// taken for a backup.
func TestAmandaDamagedSource(t *testing.T) {
	l := newAmandaLab(t, "--extent-size", "1M", "--workers", "1")
	// A compressed grain in the middle that does not inflate shows when it is read.
	disk := filepath.Join(l.machine.dir, "web01.vmdk")
	good(t, program(t), "-q", "disk", "convert", "--source-format", "raw", "--format", "stream", "--force", l.machine.raw, disk)
	must(t, os.Remove(l.machine.disk))
	b, err := os.ReadFile(disk)
	must(t, err)
	for i := range 4096 {
		b[len(b)/2+i] ^= 0x55
	}
	must(t, os.WriteFile(disk, b, 0o644))
	good(t, "chown", amandaUser, disk)

	out, code := l.dump()
	if code == 0 || !strings.Contains(out, "FAILED") || !strings.Contains(out, "web01.vmdk") {
		t.Errorf("amdump: %d\n%s", code, out)
	}
	dumps := l.find()
	at := slices.IndexFunc(dumps, func(d found) bool { return strings.Contains(d.status, "PARTIAL") })
	if at < 0 {
		t.Fatalf("amadmin find has no partial dump: %+v", dumps)
	}
	path := l.fetch(dumps[at].date)
	if st, err := os.Stat(path); err != nil || st.Size() < 1<<20 {
		t.Fatalf("nothing of a stream is on the tape: %v, %v", st, err)
	}
	if out, code := run(t, "", program(t), "verify", "--from", path); code != 4 {
		t.Errorf("verify: %d\n%s", code, out)
	}
	dir := l.owned("partial")
	if out, code := l.extract(dir, dumps[at].date); code == 0 {
		t.Errorf("a partial dump was restored:\n%s", out)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("a partial dump has left %v", entries)
	}
	l.nothingRecorded(t)
}

// A dump that is killed or cancelled fails, leaves no snapshot, and is no level
// that another could be on.
func TestAmandaKilled(t *testing.T) {
	l := newAmandaLab(t, "--codec=xz", "--level=6", "--workers=1", "--extent-size=1M", "--snapshot=redo")
	l.machine.write(t, 2, 16<<20, 24<<20)

	t.Run("killed", func(t *testing.T) {
		l.t = t
		ended := l.start()
		l.eachInTheMiddle(t, ended, func(pid int) { must(t, syscall.Kill(pid, syscall.SIGKILL)) })
		if r := <-ended; r.code == 0 || !strings.Contains(r.out, "FAILED") {
			t.Errorf("amdump: %d\n%s", r.code, r.out)
		}
		if out, code := l.run(program(t), "snapshot", "reap", "--state-dir", l.path("lib/vmstream")); code != 0 {
			t.Errorf("reap: %d\n%s", code, out)
		}
		l.standsAlone(t)
		l.nothingRecorded(t)
	})

	t.Run("cancelled", func(t *testing.T) {
		l.t = t
		ended := l.start()
		cancelled := false
		l.eachInTheMiddle(t, ended, func(int) {
			if !cancelled {
				out, code := l.run("amcleanup", "-k", "lab")
				t.Logf("amcleanup: %d\n%s", code, out)
				cancelled = true
			}
		})
		<-ended
		eventually(t, "vmstream ends", func() bool { return len(l.applications()) == 0 })
		l.standsAlone(t)
		l.nothingRecorded(t)
	})
}

// standsAlone fails if a snapshot is left. The journal is Amanda's user's.
func (l *amandaLab) standsAlone(t *testing.T) {
	t.Helper()
	l.machine.standsAlone(t, l.argv(program(t), "snapshot", "list", "--json", "--state-dir", l.path("lib/vmstream"))...)
}

type ended struct {
	out  string
	code int
}

// start starts amdump.
func (l *amandaLab) start() <-chan ended {
	done := make(chan ended, 1)
	go func() {
		out, code := l.dump()
		done <- ended{out, code}
	}()
	return done
}

func (l *amandaLab) applications() []int {
	return processes(l.t, "amvmstream backup", l.path("lib/vmstream"))
}

// eachInTheMiddle does something whenever a dump has a snapshot and some of its stream,
// until amdump has ended: Amanda tries again.
func (l *amandaLab) eachInTheMiddle(t *testing.T, done <-chan ended, do func(pid int)) {
	t.Helper()
	times := 0
	eventually(t, "amdump ends", func() bool {
		for _, pid := range l.applications() {
			logs, _ := filepath.Glob(filepath.Join(l.machine.dir, "*-0*.vmdk"))
			if len(logs) > 0 && written(pid) > 1<<20 {
				do(pid)
				times++
				time.Sleep(200 * time.Millisecond) // it ends
			}
		}
		return len(done) > 0
	})
	if times == 0 {
		t.Fatal("no dump was caught in the middle")
	}
}

// nothingRecorded fails if there is a dump that another could be on.
func (l *amandaLab) nothingRecorded(t *testing.T) {
	t.Helper()
	if found, _ := filepath.Glob(l.path("lib/vmstream/levels/lab/*/*/*")); len(found) > 0 {
		t.Errorf("recorded: %v", found)
	}
}
