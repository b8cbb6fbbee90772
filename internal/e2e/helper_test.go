// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build linux

package e2e

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vmstream/vmstream/internal/testenv"
)

// patience is how long anything may take that takes a second on an idle machine.
const patience = 3 * time.Minute

// enabled skips a test unless tests with real backup software are asked for.
func enabled(t *testing.T) {
	t.Helper()
	switch os.Getenv("VMSTREAM_E2E") {
	case "1", "all":
	default:
		t.Skip("runs real backup software: with VMSTREAM_E2E=1, or make e2e")
	}
	// Debian's daemons and Amanda's tools are not in everybody's path.
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	t.Setenv("LC_ALL", "C")
}

var built struct {
	sync.Once
	dir, path string
	err       error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// program returns vmstream: a copy of $VMSTREAM_E2E_PROGRAM, or one that is built
// now, where every user may run it.
func program(t *testing.T) string {
	t.Helper()
	built.Do(func() {
		if built.dir, built.err = os.MkdirTemp("", "vmstream-e2e-*"); built.err != nil {
			return
		}
		built.path = filepath.Join(built.dir, "vmstream")
		c := exec.Command("go", "build", "-buildvcs=false", "-o", built.path, "github.com/vmstream/vmstream/cmd/vmstream")
		if p := os.Getenv("VMSTREAM_E2E_PROGRAM"); p != "" {
			c = exec.Command("cp", p, built.path)
		}
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := c.CombinedOutput()
		if built.err = os.Chmod(built.dir, 0o755); err != nil {
			built.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatalf("the program under test: %v", built.err)
	}
	return built.path
}

// openDir makes a directory that every user may look into, for the time of a test.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "vmstream-e2e-*")
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() && os.Getenv("VMSTREAM_E2E_KEEP") != "" {
			t.Logf("kept %s", dir)
			return
		}
		_ = os.RemoveAll(dir)
	})
	must(t, os.Chmod(dir, 0o755))
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run runs a program and returns what it prints, and its exit code.
func run(t *testing.T, stdin string, argv ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	c.Stdin = strings.NewReader(stdin)
	c.WaitDelay = 5 * time.Second
	out, err := c.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out), c.ProcessState.ExitCode()
}

// good is run for what must end with 0.
func good(t *testing.T, argv ...string) string {
	t.Helper()
	out, code := run(t, "", argv...)
	if code != 0 {
		t.Fatalf("%s: exit code %d\n%s", strings.Join(argv, " "), code, out)
	}
	return out
}

// eventually waits until something is so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !is(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// machine is a VM with one disk, whose content the test knows.
type machine struct {
	dir, vmx, name string
	raw            string // content of its disk
	disk           string // what it is kept in
}

const (
	machineBytes = 48 << 20
	zeroBytes    = 36 << 20 // of them
)

// newMachine makes a VM in dir with 12 MiB of random data on its disk.
func newMachine(t *testing.T, dir, name string) *machine {
	t.Helper()
	return newMachineOf(t, dir, name, machineBytes-zeroBytes)
}

// newMachineOf makes one with so many bytes of random data, and 36 MiB of zeros.
func newMachineOf(t *testing.T, dir, name string, dataBytes int64) *machine {
	t.Helper()
	m := &machine{dir: filepath.Join(dir, name), name: name, raw: filepath.Join(dir, name+".raw")}
	m.vmx, m.disk = filepath.Join(m.dir, name+".vmx"), filepath.Join(m.dir, name+"-flat.vmdk")
	must(t, os.MkdirAll(m.dir, 0o755))
	must(t, os.WriteFile(m.raw, nil, 0o644))
	must(t, os.Truncate(m.raw, dataBytes+zeroBytes))
	m.write(t, 1, 3<<20, dataBytes)
	good(t, program(t), "-q", "disk", "convert", "--format", "flat", m.raw, filepath.Join(m.dir, name+".vmdk"))
	must(t, os.WriteFile(m.vmx, []byte(fmt.Sprintf(`.encoding = "UTF-8"
config.version = "8"
virtualHW.version = "19"
displayName = %q
guestOS = "other4xlinux-64"
memsize = "512"
scsi0.present = "TRUE"
scsi0.virtualDev = "lsilogic"
scsi0:0.present = "TRUE"
scsi0:0.fileName = "%s.vmdk"
`, name, name)), 0o644))
	return m
}

// write puts random data on the disk.
func (m *machine) write(t *testing.T, seed uint64, at, n int64) {
	t.Helper()
	for _, path := range []string{m.raw, m.disk} {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if errors.Is(err, os.ErrNotExist) {
			continue // the disk is about to be made
		}
		must(t, err)
		rng := rand.NewChaCha8(sha256.Sum256([]byte(m.name + strconv.FormatUint(seed, 10))))
		_, err = io.CopyN(io.NewOffsetWriter(f, at), rng, n)
		must(t, errors.Join(err, f.Close()))
	}
	m.touch(t, seed)
}

// touch gives the disk another content id, as every product does that writes to it.
func (m *machine) touch(t *testing.T, seed uint64) {
	t.Helper()
	path := filepath.Join(m.dir, m.name+".vmdk")
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	must(t, err)
	must(t, os.WriteFile(path, contentID.ReplaceAll(b, fmt.Appendf(nil, "\nCID=%08x", 0x1000+seed)), 0o644))
}

var contentID = regexp.MustCompile(`\nCID=[0-9a-f]{8}`)

// same compares the disk of a restored VM with this one's, bit for bit.
func (m *machine) same(t *testing.T, dir string) {
	t.Helper()
	m.sameAs(t, dir, m.raw)
}

func (m *machine) sameAs(t *testing.T, dir, content string) {
	t.Helper()
	got := filepath.Join(t.TempDir(), "restored.raw")
	good(t, program(t), "-q", "disk", "convert", "--format", "raw", filepath.Join(dir, m.name, m.name+".vmdk"), got)
	if fileSum(t, got) != fileSum(t, content) {
		t.Fatalf("the disk restored to %s is another one", dir)
	}
	must(t, os.Remove(got))
}

func fileSum(t *testing.T, path string) [sha256.Size]byte {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	return sumOf(t, f)
}

func sumOf(t *testing.T, r io.Reader) [sha256.Size]byte {
	t.Helper()
	h := sha256.New()
	_, err := io.Copy(h, r)
	must(t, err)
	return [sha256.Size]byte(h.Sum(nil))
}

// keep copies the content of the disk as it is now.
func (m *machine) keep(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(m.raw)
	must(t, err)
	path := filepath.Join(filepath.Dir(m.raw), name)
	must(t, os.WriteFile(path, b, 0o644))
	return path
}

// standsAlone fails if a snapshot is left: of the VM's disk, or in the journal,
// which the command lists.
func (m *machine) standsAlone(t *testing.T, list ...string) {
	t.Helper()
	if out := good(t, list...); strings.TrimSpace(out) != "" {
		t.Errorf("the journal has %s", out)
	}
	entries, err := os.ReadDir(m.dir)
	must(t, err)
	for _, e := range entries {
		switch e.Name() {
		case m.name + ".vmx", m.name + ".vmdk", m.name + "-flat.vmdk":
		default:
			t.Errorf("%s is left beside the disk", e.Name())
		}
	}
}

// processes returns those whose arguments have all these words.
func processes(t *testing.T, words ...string) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	must(t, err)
	var pids []int
next:
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		b, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline")) // it may have ended
		argv := strings.Split(string(b), "\x00")
		for _, w := range words {
			if !strings.Contains(strings.Join(argv, " "), w) {
				continue next
			}
		}
		if filepath.Base(argv[0]) == "vmstream" {
			pids = append(pids, pid)
		}
	}
	return pids
}

// freePort returns a TCP port of the loopback that nobody listens on.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// daemon runs a program for the time of a test.
func daemon(t *testing.T, log string, argv ...string) *exec.Cmd {
	t.Helper()
	f, err := os.Create(log)
	must(t, err)
	c := exec.Command(testenv.Tool(t, argv[0]), argv[1:]...)
	c.Stdout, c.Stderr = f, f
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, c.Start())
	t.Cleanup(func() {
		_ = c.Process.Signal(syscall.SIGTERM) // it may have ended
		done := make(chan struct{})
		go func() { _ = c.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(2 * time.Second): // one with a job may not listen
			_ = c.Process.Kill()
			<-done
		}
		_ = f.Close()
	})
	return c
}
