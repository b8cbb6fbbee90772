// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command guest is the init of the guest that package scsilab starts. It makes a tape
// library and LUNs, has the kernel find them, runs the program and tells of its exit
// status.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmstream/vmstream/internal/guestlab/modules"
	"github.com/vmstream/vmstream/internal/scsilab/fabric"
)

func main() {
	out, err := os.OpenFile("/dev/ttyS1", os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		if merr := mount(); merr != nil {
			fmt.Fprintln(os.Stderr, "guest:", merr)
		}
		out, err = os.OpenFile("/dev/ttyS1", os.O_WRONLY|unix.O_NOCTTY, 0)
	}
	code := 125
	if err == nil {
		code, err = run(out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
	}
	fmt.Fprintf(out, "scsilab: exit %d\n", code)
	time.Sleep(200 * time.Millisecond) // the line has to leave the serial port
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func mount() error {
	for _, m := range []struct{ fs, dir string }{
		{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}, {"tmpfs", "/tmp"},
	} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fs, m.dir, m.fs, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	return nil
}

// run makes the library and runs the program.
func run(out *os.File) (int, error) {
	if err := mount(); err != nil {
		return 125, err
	}
	devices, err := makeDevices()
	if err != nil {
		return 125, err
	}
	if err := links(); err != nil {
		return 125, err
	}
	c := exec.Command("/job/program", words("/job/args")...)
	c.Env = append(append([]string{"PATH=/bin", "HOME=/tmp", "TMPDIR=/tmp"}, devices...), words("/job/env")...)
	c.Dir, c.Stdout, c.Stderr = "/job", out, out
	err = c.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	return 0, err
}

// parameters are those of modules that have other devices than are wanted without.
var parameters = map[string]string{
	"scsi_debug": "dev_size_mb=64 lbpu=1 lbpws=1 lbpws10=1 lbprz=1 unmap_granularity=1 delay=0 num_tgts=1 max_luns=1",
}

// makeDevices makes the devices that are wanted, and returns the variables that name them.
func makeDevices() ([]string, error) {
	if err := modules.Load("/modules", parameters); err != nil {
		return nil, err
	}
	if err := fabric.Mount(); err != nil {
		return nil, err
	}
	env, err := makeLibrary()
	if err != nil || os.Getenv("scsilab_luns") != "1" {
		return env, err
	}
	luns, err := makeLUNs()
	return append(env, luns...), err
}

// words returns the lines of a file.
func words(path string) []string {
	b, err := os.ReadFile(path)
	if err != nil || len(b) == 0 {
		return nil
	}
	return strings.Split(string(b), "\n")
}

// links gives the first tool its other names.
func links() error {
	tool := words("/job/tool")
	for _, name := range words("/job/links") {
		if err := os.Symlink(tool[0], filepath.Join("/bin", name)); err != nil {
			return err
		}
	}
	return nil
}
