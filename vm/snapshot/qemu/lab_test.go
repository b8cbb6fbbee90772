// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/vm/qmp"
	"github.com/vmstream/vmstream/vm/snapshot"
)

const labSize = 8 << 20

// lab is a QEMU without a guest: its CPU never runs, and writes come through the
// devices' own back ends, as a guest's do. It has a monitor for the test beside
// the one that the provider uses.
type lab struct {
	t       *testing.T
	dir     string
	format  string
	drives  bool // -drive instead of -blockdev and -device: QEMU names the nodes
	paths   []string
	model   [][]byte // what the guest has written, by disk
	sock    string
	cmd     *exec.Cmd
	monitor *qmp.Client
	rand    *rand.Rand
	journal *snapshot.Journal
	mu      sync.Mutex // of model and rand
	said    bytes.Buffer
}

func newLab(t *testing.T, format string, disks int) *lab {
	t.Helper()
	return newLabOf(t, format, disks, false)
}

func newLabOf(t *testing.T, format string, disks int, drives bool) *lab {
	t.Helper()
	testenv.Tool(t, "qemu-system-x86_64")
	l := &lab{t: t, dir: t.TempDir(), format: format, drives: drives, rand: rand.New(rand.NewPCG(1, 2))}
	l.sock = filepath.Join(l.dir, "qmp")
	for i := range disks {
		p := filepath.Join(l.dir, fmt.Sprintf("disk%d.%s", i, format))
		tool(t, "qemu-img", "create", "-q", "-f", format, p, fmt.Sprint(labSize))
		l.paths, l.model = append(l.paths, p), append(l.model, make([]byte, labSize))
	}
	var err error
	state := filepath.Join(l.dir, "state")
	if l.journal, err = snapshot.OpenJournal(state); err != nil {
		t.Fatal(err)
	}
	l.start()
	t.Cleanup(func() {
		l.kill()
		if l.said.Len() > 0 {
			t.Logf("QEMU: %s", l.said.String())
		}
	})
	return l
}

func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(testenv.Tool(t, name), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (l *lab) start() {
	l.t.Helper()
	_ = os.Remove(l.sock)
	_ = os.Remove(l.sock + "2")
	a := []string{
		"-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35,accel=tcg", "-m", "32", "-S", "-name", "lab",
		"-qmp", "unix:" + l.sock + ",server=on,wait=off", "-qmp", "unix:" + l.sock + "2,server=on,wait=off",
		"-device", "virtio-scsi-pci,id=scsi0", "-device", "scsi-cd,id=cd0",
	}
	for i, p := range l.paths {
		if l.drives {
			a = append(a, "-drive", fmt.Sprintf("file=%s,format=%s,if=virtio", p, l.format))
			continue
		}
		a = append(a, "-blockdev", fmt.Sprintf(`{"driver":"file","node-name":"f%d","filename":%q,"discard":"unmap"}`, i, p),
			"-blockdev", fmt.Sprintf(`{"driver":%q,"node-name":"base%d","file":"f%d","discard":"unmap"}`, l.format, i, i),
			"-device", fmt.Sprintf("virtio-blk-pci,id=vd%d,drive=base%d", i, i))
	}
	l.cmd = exec.Command("qemu-system-x86_64", a...)
	l.cmd.Stderr = &l.said
	if err := l.cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	for range 1000 {
		var err error
		if l.monitor, err = qmp.Dial(l.t.Context(), l.sock+"2"); err == nil {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	l.t.Fatalf("QEMU does not answer: %s", l.said.String())
}

// kill ends QEMU as a power cut would.
func (l *lab) kill() {
	if l.cmd != nil {
		_ = l.cmd.Process.Kill()
		_ = l.cmd.Wait()
		_ = l.monitor.Close()
		l.cmd = nil
	}
}

// quit ends QEMU in order.
func (l *lab) quit() {
	l.t.Helper()
	if err := l.monitor.Run(l.t.Context(), "quit", nil, nil); err != nil {
		l.t.Fatal(err)
	}
	_ = l.cmd.Wait()
	_ = l.monitor.Close()
	l.cmd = nil
}

// io does what a guest would to a disk.
func (l *lab) io(i int, command string) error {
	device := fmt.Sprintf("-d /machine/peripheral/vd%d/virtio-backend", i)
	if l.drives {
		device = fmt.Sprintf("virtio%d", i)
	}
	var out string
	err := l.monitor.Run(l.t.Context(), "human-monitor-command", args{
		"command-line": fmt.Sprintf("qemu-io %s \"%s\"", device, command),
	}, &out)
	if err == nil && (strings.Contains(out, "rror") || strings.Contains(out, "failed")) {
		err = errors.New(out)
	}
	return err
}

// write does n random writes, a third of them zeros and discards.
func (l *lab) write(i, n int) {
	l.t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for range n {
		length := 4096 * (1 + l.rand.IntN(32))
		off := l.rand.IntN((labSize-length)/4096) * 4096
		fill := byte(1 + l.rand.IntN(255))
		c := fmt.Sprintf("write -P %d %d %d", fill, off, length)
		if l.rand.IntN(3) == 0 {
			fill, c = 0, fmt.Sprintf("write -z -u %d %d", off, length)
		}
		if err := l.io(i, c); err != nil {
			l.t.Errorf("%s: %v", c, err)
			return
		}
		copy(l.model[i][off:], bytes.Repeat([]byte{fill}, length))
	}
}

// points returns copies of the models.
func (l *lab) points() [][]byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	var c [][]byte
	for _, m := range l.model {
		c = append(c, slices.Clone(m))
	}
	return c
}

func (l *lab) provider(mode Mode) *Provider {
	p, err := New(Options{Socket: l.sock, Mode: mode, ReserveBytes: 1})
	if err != nil {
		l.t.Fatal(err)
	}
	p.tempDir = l.dir
	return p
}

func (l *lab) request(id, parent string) *snapshot.Request {
	return &snapshot.Request{BackupID: id, ParentID: parent, Warn: func(s string) { l.t.Errorf("warning: %s", s) }, Detail: func(s string) { l.t.Log(s) }}
}

// take makes a snapshot or fails the test.
func (l *lab) take(p *Provider, id, parent string) *snapshot.Snapshot {
	l.t.Helper()
	s, err := snapshot.Take(l.t.Context(), p, l.journal, l.request(id, parent))
	if err != nil {
		l.t.Fatal(err)
	}
	l.private()
	return s
}

// private checks that others cannot read what is beside the disks meanwhile.
func (l *lab) private() {
	l.t.Helper()
	names, err := filepath.Glob(filepath.Join(l.dir, tempPrefix+"*.qcow2"))
	if err != nil || len(names) == 0 {
		l.t.Errorf("scratch files: %v, %v", names, err)
	}
	for _, name := range names {
		if st, err := os.Stat(name); err != nil || st.Mode().Perm() != 0o600 {
			l.t.Errorf("%s: mode %v, %v", name, st.Mode(), err)
		}
	}
}

func (l *lab) release(s *snapshot.Snapshot, done bool) {
	l.t.Helper()
	if done {
		if err := s.Check(l.t.Context()); err != nil {
			l.t.Error(err)
		}
	}
	if err := s.Release(l.t.Context(), done); err != nil {
		l.t.Fatal(err)
	}
	l.clean()
}

// read returns a disk as a backup reads it: runs of zeros are not read.
func read(t *testing.T, im disk.Image) []byte {
	t.Helper()
	b := make([]byte, im.Size())
	for r, err := range im.Runs(0, im.Size()) {
		if err == nil && r.Kind != disk.Zero {
			err = disk.ReadFull(im, b[r.Offset:r.End()], r.Offset)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return b
}

// apply returns what an increment makes of the backup before.
func apply(t *testing.T, before []byte, d *snapshot.Disk, parent string) (after []byte, changedBytes int64) {
	t.Helper()
	runs, err := d.Changes(parent)
	if err != nil {
		t.Fatal(err)
	}
	now := read(t, d.Image)
	after = slices.Clone(before)
	end := int64(0)
	for r, err := range runs.Runs(0, d.Image.Size()) {
		if err != nil || r.Offset != end {
			t.Fatalf("%+v behind %d: %v", r, end, err)
		}
		end = r.End()
		if r.Kind != disk.Parent {
			copy(after[r.Offset:r.End()], now[r.Offset:r.End()])
			changedBytes += r.Length
		}
	}
	if end != d.Image.Size() {
		t.Fatalf("changes end at %d", end)
	}
	return after, changedBytes
}

// same fails if two contents differ.
func same(t *testing.T, what string, got, want []byte) {
	t.Helper()
	for off := 0; off < len(want); off += 4096 {
		if !bytes.Equal(got[off:off+4096], want[off:off+4096]) {
			t.Fatalf("%s: differs at 0x%x: %d, want %d", what, off, got[off], want[off])
		}
	}
}

// letGo fails if a snapshot costs the guest something still.
func (l *lab) letGo(s *snapshot.Snapshot) {
	l.t.Helper()
	l.idle()
	if first := s.Lifetime(); s.Lifetime() != first {
		l.t.Error("the snapshot's lifetime goes on")
	}
	if err := s.EndReading(l.t.Context()); err != nil {
		l.t.Errorf("once more: %v", err)
	}
}

// clean fails if a snapshot has left anything, in QEMU, beside the disks, or in
// the journal.
func (l *lab) clean() {
	l.t.Helper()
	l.idle()
	s := &session{Client: l.monitor}
	nodes, err := s.nodes(l.t.Context())
	if err != nil {
		l.t.Error(err)
	}
	for n := range nodes {
		if strings.HasPrefix(n, nodePrefix) {
			l.t.Errorf("node %s is left", n)
		}
	}
	if list, err := l.journal.List(); err != nil || len(list) > 0 {
		l.t.Errorf("journal: %+v, %v", list, err)
	}
}

// idle fails if anything is under way, or the guest is not on its disks.
func (l *lab) idle() {
	l.t.Helper()
	for query, what := range map[string]string{"query-jobs": "jobs", "query-block-exports": "exports"} {
		var list []json.RawMessage
		if err := l.monitor.Run(l.t.Context(), query, nil, &list); err != nil || len(list) > 0 {
			l.t.Errorf("%s: %s, %v", what, list, err)
		}
	}
	blocks, err := (&session{Client: l.monitor}).query(l.t.Context())
	if err != nil {
		l.t.Error(err)
	}
	for _, b := range blocks {
		if b.Inserted != nil && !strings.HasPrefix(b.Inserted.Node, "base") && !strings.HasPrefix(b.Inserted.Node, "#") {
			l.t.Errorf("%s is on %s", b.QDev, b.Inserted.Node)
		}
	}
	if err := l.monitor.Run(l.t.Context(), "nbd-server-stop", nil, nil); err == nil {
		l.t.Error("the NBD server was left")
	}
	l.noFiles()
}

func (l *lab) noFiles() {
	l.t.Helper()
	if files, _ := filepath.Glob(filepath.Join(l.dir, tempPrefix+"*")); len(files) > 0 {
		l.t.Errorf("files are left: %v", files)
	}
}

// bitmaps returns the names of a disk's bitmaps, with + if they record.
func (l *lab) bitmaps(i int) string {
	l.t.Helper()
	have, err := (&session{Client: l.monitor}).current(l.t.Context(), fmt.Sprintf("base%d", i))
	if err != nil {
		l.t.Error(err)
	}
	var names []string
	for _, b := range have {
		n := b.backupID
		if b.Recording {
			n += "+"
		}
		names = append(names, n)
	}
	return strings.Join(names, " ")
}

// reap ends what killed runs have left.
func (l *lab) reap(p *Provider) error {
	l.t.Helper()
	list, err := l.journal.List()
	if err != nil {
		l.t.Fatal(err)
	}
	var errs []error
	for _, e := range list {
		errs = append(errs, snapshot.Reap(l.t.Context(), l.journal, e.ID, []snapshot.Provider{p}, snapshot.Voice{Warn: func(s string) { l.t.Log(s) }}))
	}
	return errors.Join(errs...)
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
