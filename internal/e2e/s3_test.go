// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmstream/vmstream/internal/s3lab"
)

// onServers runs a test on versitygw, and on MinIO where that is built; e2e-all needs
// both.
func onServers(t *testing.T, f func(*testing.T, *s3lab.Server)) {
	t.Helper()
	enabled(t)
	if os.Getenv("VMSTREAM_E2E") == "all" && !s3lab.HasMinIO(t) {
		t.Fatal("VMSTREAM_E2E=all needs minio: make s3-servers")
	}
	s3lab.Each(t, f)
}

var fixed = []string{"--id", "web01-1", "--time", "2026-01-02T03:04:05Z"}

// A backup that is killed at random points and started again is in the end the same
// object, to the bit, as the stream of one that was never killed.
func TestS3Killed(t *testing.T) {
	size, kills := int64(256<<20), 8
	if os.Getenv("VMSTREAM_E2E") == "all" {
		size, kills = 2<<30, 30
	}
	onServers(t, func(t *testing.T, server *s3lab.Server) { testS3Killed(t, server, size, kills) })
}

func testS3Killed(t *testing.T, server *s3lab.Server, size int64, kills int) {
	const part, inFlight = 5 << 20, 4
	l := newS3Lab(t, server, size)
	args := slices.Concat([]string{"-q", "backup", "--keep-partial", "--resume", "--to", l.target("web01.tar", "")}, fixed, []string{l.machine.vmx})
	points := make([]int64, kills)
	for i := range points {
		points[i] = 1 + rand.Int64N(size-part)
	}
	slices.Sort(points)
	for _, point := range points {
		l.killAt(point, args)
		if l.there("web01.tar") {
			t.Fatal("an object is there after a kill")
		}
	}
	l.meter.goOn()
	l.run(args...)

	// As the program writes it to a pipe.
	c, _ := l.command(slices.Concat([]string{"-q", "backup"}, fixed, []string{l.machine.vmx})...)
	c.Stdout = nil
	pipe, err := c.StdoutPipe()
	must(t, err)
	must(t, c.Start())
	want := sumOf(t, pipe)
	must(t, c.Wait())
	if l.object("web01.tar") != want {
		t.Error("the object is not the stream")
	}
	if n := l.uploads(); n != 0 {
		t.Errorf("%d uploads are left", n)
	}
	parts, times, _ := l.meter.numbers()
	if again := times - parts; again > kills*inFlight {
		t.Errorf("%d parts were sent again after %d kills", again, kills)
	}
	t.Logf("%d parts, %d kills at %v, %d parts passed in all", parts, kills, points, times)
	l.run("-q", "verify", "--from", l.target("web01.tar", ""))
	l.machine.same(t, l.restored("restored", l.target("web01.tar", "")))
	l.hasNoSecrets()
}

// killAt runs the program and kills it with SIGKILL when so many bytes of parts have
// come to the server in this run and those before.
func (l *s3Lab) killAt(point int64, args []string) {
	l.t.Helper()
	reached := l.meter.stopAt(point)
	c, said := l.command(args...)
	must(l.t, c.Start())
	ended := make(chan struct{})
	go func() { _ = c.Wait(); close(ended) }()
	select {
	case <-reached:
	case <-ended:
		l.t.Fatalf("the program has ended before byte %d: %s", point, said)
	case <-time.After(patience):
		_ = c.Process.Kill() // it may have ended
		<-ended
		l.t.Fatalf("byte %d never came: %s", point, said)
	}
	must(l.t, c.Process.Kill())
	<-ended
	l.said = append(l.said, said.String())
}

// What a killed run has left is listed and removed, if it is old enough.
func TestS3Orphans(t *testing.T) {
	onServers(t, func(t *testing.T, server *s3lab.Server) {
		l := newS3Lab(t, server, 32<<20)
		l.killAt(17<<20, []string{"-q", "backup", "--keep-partial", "--to", l.target("dir/web01.tar", ""), l.machine.vmx})
		l.meter.goOn()
		// Not all servers tell times in parts of a second.
		const young = "--older-than=1h"
		if out := l.run("sink", "orphans", l.target("dir/", "")); strings.Contains(out, "web01.tar") {
			t.Errorf("an upload that was begun now is old: %s", out)
		}
		if out := l.run("sink", "orphans", "--older-than=0s", l.target("other/", "")); strings.Contains(out, "web01.tar") {
			t.Errorf("another prefix has it: %s", out)
		}
		l.run("sink", "orphans", "--remove", young, l.target("dir/", ""))
		if out := l.run("sink", "orphans", "--older-than=0s", l.target("dir/", "")); !strings.Contains(out, "dir/web01.tar") || l.uploads() != 1 {
			t.Errorf("the upload is not among %s", out)
		}
		l.run("sink", "orphans", "--remove", "--older-than=0s", l.target("dir/", ""))
		if n := l.uploads(); n != 0 {
			t.Errorf("%d uploads are left", n)
		}
		l.hasNoSecrets()
	})
}

// A full backup and an increment on it are stored, looked at, restored and removed; what
// needs little of an object reads little of it.
func TestS3Series(t *testing.T) {
	onServers(t, func(t *testing.T, server *s3lab.Server) {
		const data = 64 << 20
		l := newS3Lab(t, server, data)
		full, increment := l.target("web01/full.tar", ""), l.target("web01/increment.tar", "")
		l.run("-q", "backup", "--track", "--to", full, l.machine.vmx)
		first := l.machine.keep(t, "first")
		l.machine.write(t, 2, 20<<20, 4<<20)
		for what, run := range map[string]func(){
			"inspect --quick": func() { l.run("inspect", "--quick", "--from", full) },
			"backup --since":  func() { l.run("-q", "backup", "--since", full, "--audit", "off", "--to", increment, l.machine.vmx) },
		} {
			_, _, before := l.meter.numbers()
			run()
			if _, _, after := l.meter.numbers(); after-before > data/20 || after == before {
				t.Errorf("%s reads %d bytes of an object of %d", what, after-before, data)
			}
		}
		l.lists(map[string]int64{"web01/full.tar": data, "web01/increment.tar": 4 << 20})
		l.machine.sameAs(t, l.restored("one", full), first)
		l.machine.same(t, l.restored("two", full, increment))
		if _, code := run(t, "", program(t), "-q", "backup", "--to", full, l.machine.vmx); code != 6 {
			t.Errorf("a backup in the place of another one ends with %d", code)
		}
		l.run("sink", "rm", increment)
		l.run("sink", "rm", full)
		l.lists(nil)
		l.hasNoSecrets()
	})
}

// lists compares what sink ls tells of the bucket with keys and about how many bytes they have.
func (l *s3Lab) lists(want map[string]int64) {
	l.t.Helper()
	out := l.run("-q", "--json", "sink", "ls", l.target("", ""))
	got := 0
	for line := range strings.Lines(out) {
		var e struct {
			Key  string `json:"key"`
			Size int64  `json:"size_bytes"`
		}
		must(l.t, json.Unmarshal([]byte(line), &e))
		size, ok := want[e.Key]
		if !ok || e.Size < size || e.Size > size+size/2 {
			l.t.Errorf("sink ls tells of %s", line)
		}
		got++
	}
	if got != len(want) {
		l.t.Errorf("sink ls tells of %d objects: %s", got, out)
	}
}

// One disk of several is restored without reading the others.
func TestS3OneDisk(t *testing.T) {
	onServers(t, func(t *testing.T, server *s3lab.Server) {
		const data = 128 << 20
		l := newS3Lab(t, server, data)
		raw := filepath.Join(l.dir, "small.raw")
		must(t, os.WriteFile(raw, []byte(strings.Repeat("small disk ", 95_325)), 0o644))
		must(t, os.Truncate(raw, 1<<20))
		l.run("-q", "disk", "convert", "--format", "flat", raw, filepath.Join(l.machine.dir, "small.vmdk"))
		f, err := os.OpenFile(l.machine.vmx, os.O_APPEND|os.O_WRONLY, 0)
		must(t, err)
		_, err = f.WriteString("scsi0:1.present = \"TRUE\"\nscsi0:1.fileName = \"small.vmdk\"\n")
		must(t, err)
		must(t, f.Close())
		target := l.target("web01.tar", "")
		l.run("-q", "backup", "--to", target, l.machine.vmx)
		_, _, before := l.meter.numbers()
		got := filepath.Join(l.dir, "got.raw")
		l.run("-q", "restore", "--disk", "scsi0:1", "--to", got, "--from", target)
		if fileSum(t, got) != fileSum(t, raw) {
			t.Error("the disk is another one")
		}
		if _, _, after := l.meter.numbers(); after-before > data/2 {
			t.Errorf("reads %d bytes for a disk of 1 MiB", after-before)
		}
	})
}

// The environment's proxy is used for a server that can only be reached through it.
func TestS3ThroughProxy(t *testing.T) {
	onServers(t, func(t *testing.T, server *s3lab.Server) {
		l := newS3Lab(t, server, 12<<20)
		t.Setenv("HTTP_PROXY", os.Getenv("VMSTREAM_S3_ENDPOINT"))
		t.Setenv("NO_PROXY", "")
		t.Setenv("no_proxy", "")
		t.Setenv("VMSTREAM_S3_ENDPOINT", "http://s3.invalid")
		target := l.target("web01.tar", "")
		l.run("-q", "backup", "--to", target, l.machine.vmx)
		l.machine.same(t, l.restored("restored", target))
		l.hasNoSecrets()
	})
}

// The checks that users can run themselves pass.
func TestS3Conformance(t *testing.T) {
	onServers(t, func(t *testing.T, server *s3lab.Server) {
		l := newS3Lab(t, server, 1<<20)
		l.run("sink", "verify", l.target("check/", ""))
		l.run("sink", "verify", "s3://"+l.bucket+"/check/") // as it is by default
		l.lists(nil)
		if n := l.uploads(); n != 0 {
			t.Errorf("%d uploads are left", n)
		}
		l.hasNoSecrets()
	})
}
