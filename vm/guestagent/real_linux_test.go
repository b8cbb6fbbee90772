// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package guestagent_test

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/vm/guestagent"
)

// script runs qemu-ga on this host, in a mount namespace of its own, beside one
// loop-mounted file system, the only one that is ever frozen. It ends when its
// stdin does, thawed whatever has happened.
const script = `set -eu
truncate -s 32M "$W/img"; mkfs.ext4 -q "$W/img"; mkdir "$W/mnt"
mount -o loop "$W/img" "$W/mnt" || { echo no-mount; exit 0; }
qemu-ga --method=unix-listen --path="$W/sock" --statedir="$W" --logfile="$W/log" & G=$!
trap 'fsfreeze -u "$W/mnt" 2>/dev/null || :; kill $G 2>/dev/null || :; wait $G 2>/dev/null || :; umount "$W/mnt"' EXIT
for i in $(seq 100); do [ -S "$W/sock" ] && break; sleep 0.05; done
echo ready
while read -r f; do ( echo x > "$W/mnt/$f"; echo "wrote $f" ) & done
`

// realAgent returns the directory of a running qemu-ga, its writer and what
// that says.
func realAgent(t *testing.T) (dir string, write func(string), said *bufio.Scanner) {
	t.Helper()
	for _, tool := range []string{"qemu-ga", "mkfs.ext4", "unshare", "fsfreeze"} {
		testenv.Tool(t, tool)
	}
	if os.Getuid() != 0 {
		t.Skip("needs root to mount and freeze a file system")
	}
	dir = t.TempDir()
	cmd := exec.Command("unshare", "-m", "--propagation", "private", "bash", "-c", script)
	cmd.Env = append(os.Environ(), "W="+dir)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	said = bufio.NewScanner(out)
	if !said.Scan() || said.Text() != "ready" {
		t.Skipf("needs the right to mount a file: %q", said.Text())
	}
	return dir, func(s string) {
		if _, err := in.Write([]byte(s + "\n")); err != nil {
			t.Error(err)
		}
	}, said
}

func TestRealAgent(t *testing.T) {
	testenv.Long(t)
	dir, write, said := realAgent(t)
	c, err := guestagent.Dial(t.Context(), filepath.Join(dir, "sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f, err := c.Freeze(t.Context(), 5*time.Second, filepath.Join(dir, "mnt"))
	if err != nil || f.FileSystems != 1 {
		t.Fatalf("%+v, %v", f, err)
	}
	lines := make(chan string, 1)
	go func() { said.Scan(); lines <- said.Text() }()
	write("a")
	if _, err := c.Freeze(t.Context(), time.Second, filepath.Join(dir, "mnt")); !errors.Is(err, guestagent.ErrFrozen) {
		t.Errorf("second freeze: %v", err)
	}
	select {
	case s := <-lines:
		t.Errorf("%q while frozen", s)
	case <-time.After(300 * time.Millisecond):
	}
	d, err := f.Thaw(t.Context())
	if err != nil || d < 300*time.Millisecond {
		t.Errorf("thaw after %v: %v", d, err)
	}
	if s := <-lines; !strings.HasPrefix(s, "wrote a") {
		t.Errorf("%q", s)
	}
	if n, err := c.Thaw(t.Context()); n != 0 || err != nil {
		t.Errorf("thaw again: %d, %v", n, err)
	}
	// A second client, and a freeze that nobody ends but the timer.
	_ = c.Close()
	if c, err = guestagent.Dial(t.Context(), filepath.Join(dir, "sock")); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err = c.Freeze(t.Context(), 2*time.Second, filepath.Join(dir, "mnt")); err != nil {
		t.Fatal(err)
	}
	go func() { said.Scan(); lines <- said.Text() }()
	write("b")
	select {
	case s := <-lines:
		if s != "wrote b" {
			t.Errorf("%q", s)
		}
	case <-time.After(10 * time.Second):
		t.Error("the timer did not thaw")
	}
}
