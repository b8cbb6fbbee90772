// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmstream/vmstream/internal/testenv"
)

// machine starts QEMU, paused before its first instruction, with disks of three
// formats, and returns its QMP socket.
func machine(t *testing.T, dir string) string {
	t.Helper()
	qemu, img := testenv.Tool(t, "qemu-system-x86_64"), testenv.Tool(t, "qemu-img")
	raw := filepath.Join(dir, "content.raw")
	if err := makeDisk(raw, 8<<20); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "qmp")
	args := []string{
		"-name", "guest one", "-M", "pc,accel=tcg", "-m", "64", "-display", "none", "-nodefaults", "-S",
		"-qmp", "unix:" + socket + ",server=on,wait=off",
	}
	for _, format := range []string{"raw", "qcow2", "vmdk"} {
		path := filepath.Join(dir, "disk."+format)
		if out, err := exec.Command(img, "convert", "-O", format, raw, path).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		args = append(args, "-drive", "if=none,id=d"+format+",format="+format+",file="+path, "-device", "virtio-blk-pci,id="+format+",drive=d"+format)
	}
	c := exec.Command(qemu, args...)
	var said bytes.Buffer
	c.Stderr = &said
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait() // it was killed
	})
	for range 200 {
		if _, err := os.Stat(socket); err == nil {
			return socket
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("QEMU does not answer: %s", said.String())
	return ""
}

// TestQMP backs up the disks of a machine that QEMU has open, whole and as an
// increment, in both modes.
func TestQMP(t *testing.T) {
	testenv.Long(t)
	for _, mode := range []string{"fleece", "overlay"} {
		t.Run(mode, func(t *testing.T) {
			dir := t.TempDir()
			socket := machine(t, dir)
			file := func(name string) string { return filepath.Join(dir, name) }
			backup := func(out string, args ...string) {
				t.Helper()
				c := vmstream(t, append([]string{"backup", "--json", "--qmp", socket, "--qmp-mode", mode, "--state-dir", file("state")}, args...)...)
				f, err := os.Create(out)
				if err != nil {
					t.Fatal(err)
				}
				c.Stdout = f
				if code := exitCode(t, c.Run()); code != 0 {
					t.Fatalf("exit code %d: %s", code, c.Stderr)
				}
				if err := f.Close(); err != nil {
					t.Fatal(err)
				}
				if s := c.Stderr.(*bytes.Buffer).String(); !strings.Contains(s, `"snapshot":"qmp"`) || !strings.Contains(s, `"name":"guest one`) {
					t.Errorf("summary: %s", s)
				}
			}
			backup(file("0.tar"), "--index-out", file("0.json"))
			backup(file("1.tar"), "--since", file("0.json"))
			for _, disk := range []string{"raw", "qcow2", "vmdk"} {
				out := file(disk + ".img")
				c := vmstream(t, "restore", "-q", "--from", file("0.tar"), "--from", file("1.tar"), "--disk", disk, "--to", out)
				if code := exitCode(t, c.Run()); code != 0 {
					t.Fatalf("restore of %s: exit code %d: %s", disk, code, c.Stderr)
				}
				got, err := os.ReadFile(out)
				if err != nil {
					t.Fatal(err)
				}
				want, err := os.ReadFile(file("content.raw"))
				if err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s: not what the disk has (%v)", disk, err)
				}
			}
			c := vmstream(t, "snapshot", "list", "--state-dir", file("state"))
			var out bytes.Buffer
			c.Stdout = &out
			if code := exitCode(t, c.Run()); code != 0 || out.Len() != 0 {
				t.Errorf("snapshots left: %d, %s", code, out.String())
			}
		})
	}
}
