// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build linux

// Command guest is the init of the small Linux guest that tests back up while
// it runs. It loads its modules, mounts its disks and then writes records
// without pause: each is durable before the next one begins, and before the
// line on the second serial port that tells of it. Between records it makes,
// rewrites and deletes files, as a guest does, and trims what is free when it is
// told to on the third serial port.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmstream/vmstream/internal/guestlab/modules"
)

// lifetime ends a guest whose test has gone.
const lifetime = 30 * time.Minute

func main() {
	err := run()
	fmt.Fprintf(os.Stderr, "guest: %v\n", err)
	// The line has to leave the serial port before the machine is off.
	if f, err := os.OpenFile("/dev/ttyS1", os.O_WRONLY, 0); err == nil {
		fmt.Fprintf(f, "fail %s\n", strings.ReplaceAll(fmt.Sprint(err), "\n", " "))
	}
	time.Sleep(200 * time.Millisecond)
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF) // an init that returns is a panic, which ends the machine too
}

func run() error {
	for _, m := range []struct{ fs, dir string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fs, m.dir, m.fs, 0, ""); err != nil && err != unix.EBUSY {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	serial, err := openSerial("/dev/ttyS1")
	if err != nil {
		return err
	}
	orders, err := openSerial("/dev/ttyS2")
	if err != nil {
		return err
	}
	fmt.Fprintf(serial, "boot %d\n", monotonic())
	if err := modules.Load("/modules", nil); err != nil {
		return err
	}
	disks, err := strconv.Atoi(os.Getenv("guestlab_disks")) // the kernel makes variables of options that it does not know
	if err != nil {
		return fmt.Errorf("guestlab_disks: %w", err)
	}
	w := &writer{progress: serial, trims: trimOrders(orders)}
	for i := range disks {
		dir := fmt.Sprintf("/data%d", i)
		if err := mountDisk(fmt.Sprintf("data%d", i), dir); err != nil {
			return err
		}
		w.dirs = append(w.dirs, dir)
	}
	return w.run(time.Now().Add(lifetime))
}

// openSerial opens a serial port that passes lines on as they are.
func openSerial(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

// trimOrders passes on each line "trim".
func trimOrders(r io.Reader) <-chan struct{} {
	c := make(chan struct{}, 16)
	go func() {
		for lines := bufio.NewScanner(r); lines.Scan(); {
			if strings.TrimSpace(lines.Text()) == "trim" {
				c <- struct{}{}
			}
		}
	}()
	return c
}

// mountDisk waits for the disk with a serial number and mounts it. Devices
// are found in no certain order.
func mountDisk(serial, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for range 1000 {
		found, err := filepath.Glob("/sys/block/*/serial")
		if err != nil {
			return err
		}
		for _, path := range found {
			b, err := os.ReadFile(path)
			if err != nil || strings.TrimSpace(string(b)) != serial {
				continue
			}
			dev := "/dev/" + filepath.Base(filepath.Dir(path))
			if err := unix.Mount(dev, dir, "ext4", unix.MS_NOATIME, ""); err != nil {
				return fmt.Errorf("mount %s: %w", dev, err)
			}
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("no disk with the serial number %s", serial)
}

// monotonic returns nanoseconds since the guest began to boot.
func monotonic() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail with this clock
	return ts.Nano()
}
