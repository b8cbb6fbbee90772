// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package scsilab

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vmstream/vmstream/internal/guestlab"
	"github.com/vmstream/vmstream/internal/testenv"
)

// What guests need, if their kernel does not have it built in.
var (
	modules     = []string{"virtio_pci", "virtio_blk", "crc32c_generic", "sg", "tcm_loop"}
	tapeModules = []string{"st", "ch", "target_core_user"}
	lunModules  = []string{"sd_mod", "target_core_file", "scsi_debug"}
)

// Marks of the lines that the guest's init writes.
const exitMark = "scsilab: exit "

// Guest is a guest at work.
type Guest struct {
	cmd     *exec.Cmd
	console string
	qemu    bytes.Buffer
	gone    chan struct{} // closed when QEMU has ended

	mu    sync.Mutex
	lines []string
	more  chan struct{} // closed and made anew with each line
}

// Start starts a guest. It is killed when the test ends.
func Start(tb testing.TB, o Options) *Guest {
	tb.Helper()
	qemu := testenv.Tool(tb, "qemu-system-x86_64")
	o = o.withDefaults()
	kernel, initrd := guestlab.Image(tb, o.modules(), o.files(tb))
	dir := tb.TempDir()
	g := &Guest{console: filepath.Join(dir, "console"), gone: make(chan struct{}), more: make(chan struct{})}
	args := []string{
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "pc,accel=tcg", "-cpu", "max", "-smp", "1", "-m", strconv.Itoa(o.MemoryMiB),
		"-serial", "file:" + g.console, "-serial", "stdio", "-kernel", kernel, "-initrd", initrd,
		"-append", fmt.Sprintf("console=ttyS0 quiet loglevel=4 panic=-1 nokaslr no_timer_check mitigations=off audit=0 cryptomgr.notests "+
			"scsilab_tapes=%d scsilab_capacity=%d scsilab_warning=%d scsilab_luns=%d", o.tapes(), o.Capacity, o.Warning, o.luns()),
	}
	if o.Image != "" {
		args = append(args, "-drive", "file="+o.Image+",format=raw,if=virtio")
	}
	g.cmd = exec.CommandContext(tb.Context(), qemu, args...)
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	g.cmd.Stderr = &g.qemu
	out, err := g.cmd.StdoutPipe()
	if err == nil {
		err = g.cmd.Start()
	}
	if err != nil {
		tb.Fatal(err)
	}
	go func() {
		defer close(g.gone)
		for s := bufio.NewScanner(out); s.Scan(); {
			g.add(strings.TrimSuffix(s.Text(), "\r"))
		}
		_ = g.cmd.Wait() // it is killed, or its last line tells
	}()
	tb.Cleanup(g.Kill)
	return g
}

func (g *Guest) add(line string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lines = append(g.lines, line)
	close(g.more)
	g.more = make(chan struct{})
}

// Kill cuts the power.
func (g *Guest) Kill() {
	_ = g.cmd.Process.Kill() // it may have ended
	<-g.gone
}

// WaitLine waits for a line that has text in it.
func (g *Guest) WaitLine(tb testing.TB, text string, limit time.Duration) {
	tb.Helper()
	t := time.NewTimer(limit)
	defer t.Stop()
	for at := 0; ; {
		g.mu.Lock()
		lines, more := g.lines, g.more
		g.mu.Unlock()
		for ; at < len(lines); at++ {
			if strings.Contains(lines[at], text) {
				return
			}
		}
		select {
		case <-more:
		case <-g.gone:
			tb.Fatalf("the guest has ended without %q\n%s", text, g.report())
		case <-t.C:
			tb.Fatalf("no %q after %v\n%s", text, limit, g.report())
		}
	}
}

// Wait waits for the end of the guest, and returns what the program has said and its
// exit status.
func (g *Guest) Wait(tb testing.TB, limit time.Duration) (string, int) {
	tb.Helper()
	select {
	case <-g.gone:
	case <-time.After(limit):
		g.Kill()
		tb.Fatalf("the guest has not ended after %v\n%s", limit, g.report())
	}
	last := len(g.lines) - 1
	if last >= 0 {
		if s, ok := strings.CutPrefix(g.lines[last], exitMark); ok {
			if code, err := strconv.Atoi(s); err == nil {
				return strings.Join(g.lines[:last], "\n"), code
			}
		}
	}
	tb.Fatalf("the guest has ended without a status\n%s", g.report())
	return "", 0
}

// report is what there is to tell of a guest that did not do as it should.
func (g *Guest) report() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	b, err := os.ReadFile(g.console)
	if err != nil {
		b = []byte(err.Error())
	}
	return strings.Join(g.lines, "\n") + "\n--- console\n" + string(b[max(0, len(b)-4<<10):]) + "\n--- qemu\n" + g.qemu.String()
}
