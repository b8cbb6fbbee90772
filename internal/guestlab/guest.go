// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build linux

package guestlab

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmstream/vmstream/internal/testenv"
)

// Guest is a running guest. Its methods may be called by several goroutines.
type Guest struct {
	// QMP and QMPTest are paths of two monitor sockets: one for the program
	// that is tested, one for the test.
	QMP, QMPTest string
	// Disks are the paths of its disks, Devices the ids of the devices in QEMU
	// and Nodes the names of the block nodes with their content.
	Disks, Devices, Nodes []string
	// Format of the disks.
	Format string
	// BootTime is how long it took from the start of QEMU to the first record.
	BootTime time.Duration

	progress
	orders  string // socket of the serial port that the guest is told things on
	console string // file with the kernel's messages
	process *os.Process
	output  bytes.Buffer  // of QEMU; to be read when gone is closed
	gone    chan struct{} // closed when QEMU has ended
}

// bootTimeout is for a machine that does other things too.
const bootTimeout = 3 * time.Minute

// Start starts a guest and waits for its first record. The guest is killed when
// the test ends, and when the test's process does.
func Start(tb testing.TB, o Options) *Guest {
	tb.Helper()
	qemu := testenv.Tool(tb, "qemu-system-x86_64")
	k := findKernel(tb)
	o = o.withDefaults(tb)
	sockets := socketDir(tb)
	g := &Guest{
		QMP: filepath.Join(sockets, "qmp"), QMPTest: filepath.Join(sockets, "qmptest"),
		Disks: o.disks(tb), Format: o.Format, console: filepath.Join(sockets, "console"), orders: filepath.Join(sockets, "orders"),
		gone: make(chan struct{}), progress: progress{changed: make(chan struct{})},
	}
	args := g.arguments(k, initramfs(tb, k), o)
	begin := time.Now()
	if err := g.start(qemu, args); err != nil {
		tb.Fatalf("%s: %v", qemu, err)
	}
	tb.Cleanup(g.Kill)
	if err := g.waitNew(1, bootTimeout); err != nil {
		g.Kill()
		tb.Fatalf("guest does not boot: %v\n%s\n%s\n%s", err, g.messages(), g.output.String(), strings.Join(args, " "))
	}
	g.BootTime = time.Since(begin)
	return g
}

// socketDir returns a directory whose name is short: that of a socket has 107
// bytes, and the directories of tests are long.
func socketDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "vmsguest")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	return dir
}

// arguments returns QEMU's command line. As little as possible is on the
// machine: each device costs an emulated processor time to look for.
func (g *Guest) arguments(k kernel, initrd string, o Options) []string {
	args := []string{
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-machine", "pc,accel=tcg", "-smp", "1", "-m", "192",
		"-serial", "file:" + comma(g.console), "-serial", "file:/proc/self/fd/3", // the kernel's messages, and the progress
		"-chardev", "socket,id=orders,server=on,wait=off,path=" + comma(g.orders), "-serial", "chardev:orders",
		"-kernel", k.image, "-initrd", initrd,
		"-append", fmt.Sprintf("console=ttyS0 quiet loglevel=3 panic=-1 nokaslr no_timer_check mitigations=off audit=0 "+
			"cryptomgr.notests guestlab_disks=%d", len(g.Disks)),
		"-chardev", "socket,id=qmp,server=on,wait=off,path=" + comma(g.QMP), "-mon", "chardev=qmp,mode=control",
		"-chardev", "socket,id=qmptest,server=on,wait=off,path=" + comma(g.QMPTest), "-mon", "chardev=qmptest,mode=control",
	}
	for i, path := range g.Disks {
		node, device := fmt.Sprintf("disk%d", i), fmt.Sprintf("vd%d", i)
		args = append(args,
			"-blockdev", fmt.Sprintf("driver=file,node-name=file%d,discard=unmap,filename=%s", i, comma(path)),
			"-blockdev", fmt.Sprintf("driver=%s,node-name=%s,file=file%d,discard=unmap", g.Format, node, i),
			"-device", fmt.Sprintf("virtio-blk-pci,id=%s,drive=%s,serial=data%d", device, node, i))
		g.Nodes, g.Devices = append(g.Nodes, node), append(g.Devices, device)
	}
	return append(args, o.Args...)
}

// comma doubles commas, as QEMU's options want it.
func comma(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// start starts QEMU in a thread of its own: the kernel kills QEMU when that
// thread ends, which is when the test's process does. The progress has a pipe of
// its own, descriptor 3, because QEMU prints messages on both standard streams.
func (g *Guest) start(qemu string, args []string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	c := exec.Command(qemu, args...) //nolint:noctx // ended by Kill: a guest outlives the function that starts it
	c.Stdout, c.Stderr = &g.output, &g.output
	c.ExtraFiles = []*os.File{w}
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := errors.Join(c.Start(), w.Close())
		g.process = c.Process
		started <- err
		if err != nil {
			return
		}
		_ = g.read(r) // a record that is missing shows
		_ = c.Wait()  // it is killed
		_ = r.Close() // only read
		close(g.gone)
		g.end()
	}()
	return <-started
}

// Kill cuts the power: QEMU ends at once, without a flush of what it holds. It
// may be called again.
func (g *Guest) Kill() {
	_ = g.process.Kill() // it may have ended
	<-g.gone
}

// PID returns the id of the QEMU process.
func (g *Guest) PID() int { return g.process.Pid }

// messages returns what the guest's kernel said.
func (g *Guest) messages() string {
	b, err := os.ReadFile(g.console)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-8<<10):])
}

// Alive reports if the guest runs and writes: it waits for a record that comes
// after the call, and returns why there is none.
func (g *Guest) Alive() error { return g.waitNew(g.LastDurable()+1, 30*time.Second) }

// Check fails the test if the guest has stopped.
func (g *Guest) Check(tb testing.TB) {
	tb.Helper()
	if err := g.Alive(); err != nil {
		tb.Fatalf("the guest does not write: %v\n%s", err, g.messages())
	}
}

// WaitRecord waits until a record with this number is durable.
func (g *Guest) WaitRecord(tb testing.TB, number uint64) {
	tb.Helper()
	if err := g.waitNew(number, 2*time.Minute); err != nil {
		tb.Fatalf("record %d: %v\n%s", number, err, g.messages())
	}
}

// WaitMore waits until the guest has written so many records more.
func (g *Guest) WaitMore(tb testing.TB, records uint64) {
	tb.Helper()
	g.WaitRecord(tb, g.LastDurable()+records)
}

// Trim makes the guest discard what is free on all its disks, and returns when
// that has been done. It must not be called twice at the same time. ext4 discards
// once what is free, until something near it is freed again: what QEMU drops, as
// below the filter of a backup job (7.2: that node is opened without "unmap"), does
// not come again.
func (g *Guest) Trim() error {
	c, err := net.Dial("unix", g.orders) //nolint:noctx // in QEMU at once
	if err != nil {
		return err
	}
	defer c.Close() // what was written has been acted on
	g.mu.Lock()
	before := g.trims
	g.mu.Unlock()
	if _, err := io.WriteString(c, "trim\n"); err != nil {
		return err
	}
	if err := g.wait(func() bool { return g.trims > before }, 2*time.Minute); err != nil {
		return fmt.Errorf("trim: %w", err)
	}
	return nil
}

// More is WaitMore for goroutines that cannot end a test.
func (g *Guest) More(records uint64) error { return g.waitNew(g.LastDurable()+records, 2*time.Minute) }
