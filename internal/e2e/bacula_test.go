// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func (l *baculaLab) backup(level string) job {
	l.t.Helper()
	return l.run("run job=web01 level=" + level + " yes")
}

// mustEnd fails the test if a job has not ended as it should.
func (l *baculaLab) mustEnd(j job, status, what string) {
	l.t.Helper()
	if j.status != status {
		l.t.Fatalf("%s: job %d has ended with %s, not %s\n%s", what, j.id, j.status, status, j.log)
	}
}

func (l *baculaLab) restore(where, replace, which string) job {
	l.t.Helper()
	return l.run(fmt.Sprintf("restore client=lab-fd fileset=web01 restorejob=web01-restore where=%q replace=%s %s all done yes", where, replace, which))
}

// A full backup and increments on it, each with a name of its own, come back as the
// last one had the disk, and as each before.
func TestBaculaLevels(t *testing.T) {
	l := newBaculaLab(t, false, "--track", "--codec", "zstd")
	first := l.backup("Incremental") // there is none before, so Bacula makes it a full one
	l.mustEnd(first, "T", "full backup")
	if first.errors != 0 {
		t.Errorf("errors: %s", first.log)
	}
	content := []string{l.machine.keep(t, "first")}
	jobs := []job{first}
	for i := range 2 {
		l.machine.write(t, uint64(10+i), int64(i+1)*(5<<20), 1<<20)
		j := l.backup("Incremental")
		l.mustEnd(j, "T", "increment")
		if name := fmt.Sprintf("/vmstream/web01/Incremental.%d.tar", j.id); l.names(j.id) != name {
			t.Errorf("the stream is called %q, want %q", l.names(j.id), name)
		}
		if want := fmt.Sprintf("an increment on job %d", jobs[i].id); !strings.Contains(j.log, want) {
			t.Errorf("no %q in\n%s", want, j.log)
		}
		jobs, content = append(jobs, j), append(content, l.machine.keep(t, fmt.Sprint("increment", i)))
	}
	if full, inc := l.bytes(jobs[0]), l.bytes(jobs[2]); inc > full/4 {
		t.Errorf("the increment has %d bytes, the full backup %d", inc, full)
	}

	r := l.restore(l.path("all"), "always", "select current")
	l.mustEnd(r, "T", "restore")
	l.machine.same(t, l.path("all"))
	then := fmt.Sprintf("%d,%d", jobs[0].id, jobs[1].id)
	l.mustEnd(l.restore(l.path("then"), "never", "jobid="+then), "T", "restore of jobs "+then)
	l.machine.sameAs(t, l.path("then"), content[1])

	// What is there is not replaced unless the job says so, and an increment does
	// not go anywhere by itself.
	l.mustEnd(l.restore(l.path("all"), "never", "select current"), "E", "restore over a VM")
	l.machine.same(t, l.path("all"))
	alone := l.restore(l.path("alone"), "always", fmt.Sprintf("jobid=%d", jobs[1].id))
	l.mustEnd(alone, "E", "restore of an increment alone")
	if entries, _ := os.ReadDir(l.path("alone")); len(entries) != 0 {
		t.Errorf("an increment alone has left %v", entries)
	}

	l.machine.write(t, 20, 20<<20, 1<<20)
	d := l.backup("Differential")
	l.mustEnd(d, "T", "differential backup")
	if want := fmt.Sprintf("an increment on job %d", first.id); !strings.Contains(d.log, want) {
		t.Errorf("no %q in\n%s", want, d.log)
	}
	l.mustEnd(l.restore(l.path("differential"), "never", "select current"), "T", "restore of a differential backup")
	l.machine.same(t, l.path("differential"))
}

func (l *baculaLab) bytes(j job) (n int64) {
	l.t.Helper()
	_, err := fmt.Sscan(l.sql(fmt.Sprintf("select JobBytes from Job where JobId = %d", j.id)), &n)
	must(l.t, err)
	return n
}

// A job whose stream is not whole fails, and no increment is made on it.
func TestBaculaFailures(t *testing.T) {
	l := newBaculaLab(t, true, "--track", "--extent-size", "1M", "--snapshot", "redo") // slow enough to be caught in the middle
	full := l.backup("Full")
	l.mustEnd(full, "T", "full backup")
	l.machine.write(t, 2, 16<<20, 8<<20)

	t.Run("killed", func(t *testing.T) {
		l.t = t
		id := l.start("run job=web01 level=Full yes")
		pid := l.inTheMiddle(t, id)
		must(t, syscall.Kill(pid, syscall.SIGKILL))
		j := l.wait(id)
		l.mustEnd(j, "E", "killed")
		if !strings.Contains(j.log, "not whole") {
			t.Errorf("nothing says why:\n%s", j.log)
		}
		good(t, program(t), "snapshot", "reap", "--state-dir", l.path("state"))
		l.machine.standsAlone(t, program(t), "snapshot", "list", "--json", "--state-dir", l.path("state"))
		l.forgotten(t, id)
	})

	t.Run("cancelled", func(t *testing.T) {
		l.t = t
		id := l.start("run job=web01 level=Full yes")
		l.inTheMiddle(t, id)
		l.console(fmt.Sprintf("cancel jobid=%d yes\n", id))
		l.mustEnd(l.wait(id), "A", "cancelled")
		eventually(t, "vmstream ends", func() bool { return len(l.readers(id)) == 0 })
		l.machine.standsAlone(t, program(t), "snapshot", "list", "--json", "--state-dir", l.path("state"))
		l.forgotten(t, id)
	})

	t.Run("damaged", func(t *testing.T) {
		l.t = t
		must(t, os.Truncate(l.machine.disk, machineBytes/2))
		j := l.backup("Incremental")
		l.mustEnd(j, "E", "damaged source")
		l.forgotten(t, j.id)
		l.machine.standsAlone(t, program(t), "snapshot", "list", "--json", "--state-dir", l.path("state"))
		must(t, os.Truncate(l.machine.disk, machineBytes))
		b, err := os.ReadFile(l.machine.raw)
		must(t, err)
		must(t, os.WriteFile(l.machine.disk, b, 0o644))
	})

	t.Run("with warnings", func(t *testing.T) {
		l.t = t
		reader := l.path("conf/web01-reader")
		b, err := os.ReadFile(reader)
		must(t, err)
		must(t, os.WriteFile(reader, bytes.Replace(b, []byte("-- --track"), []byte("-- --post false --track"), 1), 0o755))
		j := l.backup("Full") // is whole, so it counts
		must(t, os.WriteFile(reader, b, 0o755))
		l.mustEnd(j, "T", "full backup with warnings")
		if j.errors == 0 || !strings.Contains(j.log, fmt.Sprintf("job %d is stored", j.id)) {
			t.Errorf("%d errors\n%s", j.errors, j.log)
		}
		full = j
	})

	t.Run("and then", func(t *testing.T) {
		l.t = t
		j := l.backup("Incremental")
		l.mustEnd(j, "T", "increment behind failures")
		if want := fmt.Sprintf("an increment on job %d", full.id); !strings.Contains(j.log, want) {
			t.Errorf("no %q in\n%s", want, j.log)
		}
		l.mustEnd(l.restore(l.path("all"), "always", "select current"), "T", "restore")
		l.machine.same(t, l.path("all"))
	})
}

func (l *baculaLab) readers(id int) []int {
	return processes(l.t, "bacula-backup", l.path("state"), fmt.Sprintf("--job-id %d ", id))
}

// inTheMiddle waits until a job has a snapshot and some of its stream, and
// returns the number of vmstream's process.
func (l *baculaLab) inTheMiddle(t *testing.T, id int) int {
	t.Helper()
	var pids []int
	eventually(t, "vmstream reads", func() bool {
		pids = l.readers(id)
		logs, _ := filepath.Glob(filepath.Join(l.machine.dir, "*-0*.vmdk"))
		return len(pids) == 1 && len(logs) > 0 && written(pids[0]) > 1<<20
	})
	return pids[0]
}

// written returns how much a process has written by now.
func written(pid int) (n int64) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid)) // it may have ended
	for line := range strings.Lines(string(b)) {
		if _, err := fmt.Sscanf(line, "wchar: %d", &n); err == nil {
			return n
		}
	}
	return 0
}

// isForgotten reports if nothing is left of a job that an increment could be on.
func (l *baculaLab) isForgotten(id int) bool {
	left, _ := filepath.Glob(filepath.Join(l.path("state"), "bacula", "web01", fmt.Sprintf("%d.*", id)))
	return len(left) == 0
}

func (l *baculaLab) forgotten(t *testing.T, id int) {
	t.Helper()
	if !l.isForgotten(id) {
		t.Errorf("job %d is not forgotten", id)
	}
}
