// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package ssh

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/sinks"
)

// shells are what runs the scripts on the other end in turn: what is first on its PATH.
var shells = []string{"dash", "busybox"}

// serve starts an sshd of our own, whose sessions find the tools of a shell first,
// and returns a target in a fresh directory.
func serve(t *testing.T, shell string) (target, dir string) {
	t.Helper()
	sshd, keygen := testenv.Tool(t, "/usr/sbin/sshd"), testenv.Tool(t, "ssh-keygen")
	testenv.Tool(t, "ssh")
	sh := testenv.Tool(t, shell)
	base := t.TempDir()
	for _, name := range []string{"host", "user"} {
		if out, err := exec.Command(keygen, "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(base, name)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v: %s", err, out)
		}
	}
	tools := filepath.Join(base, "tools")
	names := []string{"sh"}
	if shell == "busybox" {
		names = append(names, "cat", "dd", "find", "ln", "mkdir", "mv", "rm", "stat", "sync")
	}
	if err := os.Mkdir(tools, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		if err := os.Symlink(sh, filepath.Join(tools, n)); err != nil {
			t.Fatal(err)
		}
	}
	pub, err := os.ReadFile(filepath.Join(base, "user.pub"))
	if err != nil {
		t.Fatal(err)
	}
	line := fmt.Sprintf("environment=\"PATH=%s:/usr/bin:/bin\" %s", tools, pub)
	if err := os.WriteFile(filepath.Join(base, "authorized_keys"), []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	conf := fmt.Sprintf("ListenAddress 127.0.0.1:%s\nHostKey %s/host\nAuthorizedKeysFile %s/authorized_keys\nPidFile none\n"+
		"StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitUserEnvironment PATH\nMaxStartups 100\nPermitRootLogin prohibit-password\n", port, base, base)
	if err := os.WriteFile(filepath.Join(base, "sshd_config"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		_ = os.MkdirAll("/run/sshd", 0o755) // where sshd, as root, puts itself before it knows who comes
	}
	var log bytes.Buffer
	d := exec.Command(sshd, "-D", "-e", "-f", filepath.Join(base, "sshd_config"))
	d.Stderr = &log
	if err := d.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = d.Process.Signal(syscall.SIGTERM)
		_ = d.Wait()
		if t.Failed() {
			t.Logf("sshd: %s", log.String())
		}
	})
	waitPort(t, port)
	host, err := os.ReadFile(filepath.Join(base, "host.pub"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(base, "known"), fmt.Appendf(nil, "[127.0.0.1]:%s %s", port, host), 0o600); err != nil {
		t.Fatal(err)
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(base, "it's a $HOME")
	return fmt.Sprintf("ssh://%s@127.0.0.1:%s%s/it's%%20a%%20$HOME/?identity=%s/user&known_hosts=%s/known&config=/dev/null", me.Username, port, base, base, base), dir
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func waitPort(t *testing.T, port string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if c, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
			_ = c.Close()
			return
		}
	}
	t.Fatal("sshd does not listen")
}

func openSink(t *testing.T, target string) sinks.Sink {
	t.Helper()
	tg, _ := sinks.ParseTarget(target)
	s, key, err := Driver().Open(t.Context(), tg, nil)
	if err != nil || key != "" {
		t.Fatalf("key %q, %v", key, err)
	}
	return s
}

func store(ctx context.Context, s sinks.Sink, key string, data []byte, o sinks.CreateOptions) error {
	w, err := s.Create(ctx, key, o)
	if err != nil {
		return err
	}
	if _, err = w.Write(data); err == nil {
		_, err = w.Commit(ctx, sinks.End{SizeBytes: int64(len(data))})
	}
	return errors.Join(err, w.Abort(ctx))
}

func TestRealServer(t *testing.T) {
	for _, shell := range shells {
		t.Run(shell, func(t *testing.T) {
			target, dir := serve(t, shell)
			s, ctx := openSink(t, target), t.Context()
			data := make([]byte, 300_000)
			for i := range data {
				data[i] = byte(rand.Uint32())
			}
			const key = "a b/we'b;01.tar"
			if err := store(ctx, s, key, data, sinks.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(filepath.Join(dir, key)); err != nil || !bytes.Equal(got, data) {
				t.Fatalf("stored %d bytes, %v", len(got), err)
			}
			if err := store(ctx, s, key, data[:5], sinks.CreateOptions{}); !errors.Is(err, sinks.ErrExists) {
				t.Errorf("a second time: %v", err)
			}
			readBack(t, s, key, data)
			abandon(t, s, dir)
			if err := store(ctx, s, key, data[:7], sinks.CreateOptions{Overwrite: true}); err != nil {
				t.Error(err)
			}
			if i, err := s.Stat(ctx, key); err != nil || i.SizeBytes != 7 || i.Modified.IsZero() {
				t.Errorf("Stat: %+v, %v", i, err)
			}
			if err := s.Delete(ctx, key); err != nil {
				t.Error(err)
			}
			if err := s.Delete(ctx, key); !errors.Is(err, sinks.ErrNotExist) {
				t.Errorf("Delete again: %v", err)
			}
			if _, _, err := s.Open(ctx, key); !errors.Is(err, sinks.ErrNotExist) {
				t.Errorf("Open: %v", err)
			}
		})
	}
}

func readBack(t *testing.T, s sinks.Sink, key string, data []byte) {
	t.Helper()
	r, info, err := s.Open(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, data) || info.SizeBytes != int64(len(data)) {
		t.Errorf("read %d bytes of %+v, %v", len(got), info, err)
	}
	_ = r.Close()
	at, err := s.OpenAt(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]int64{{0, 10}, {65530, 20}, {131072, 65536}, {299_990, 10}} {
		b := make([]byte, c[1])
		if n, err := at.ReadAt(b, c[0]); err != nil || !bytes.Equal(b[:n], data[c[0]:c[0]+c[1]]) {
			t.Errorf("ReadAt %d: %d, %v", c[0], n, err)
		}
	}
	if n, err := at.ReadAt(make([]byte, 20), 299_990); n != 10 || !errors.Is(err, io.EOF) {
		t.Errorf("ReadAt over the end: %d, %v", n, err)
	}
	var keys []string
	for i, err := range s.List(t.Context(), "a b/we") {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, i.Key)
	}
	if !slices.Equal(keys, []string{key}) {
		t.Errorf("List: %q", keys)
	}
}

// abandon has writers that do not commit: one is aborted, one says a wrong length, and
// one loses its connection, of which an orphan is left.
func abandon(t *testing.T, s sinks.Sink, dir string) {
	t.Helper()
	ctx := t.Context()
	for i := range 3 {
		w, err := s.Create(ctx, "gone.tar", sinks.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte("abc")); err != nil {
			t.Fatal(err)
		}
		switch i {
		case 0:
			err = w.Abort(ctx)
		case 1:
			if _, err = w.Commit(ctx, sinks.End{SizeBytes: 4}); errors.Is(err, sinks.ErrShort) {
				err = nil
			}
		default:
			w.(*writer).c.end()
		}
		if err != nil {
			t.Error(err)
		}
	}
	var left []sinks.Orphan
	for o, err := range s.Orphans(ctx, "go") {
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, o)
	}
	if len(left) != 1 || left[0].Key != "gone.tar" {
		t.Fatalf("orphans: %+v", left)
	}
	if err := s.RemoveOrphan(ctx, left[0]); err != nil {
		t.Error(err)
	}
	if m, _ := filepath.Glob(filepath.Join(dir, ".*")); len(m) > 0 {
		t.Errorf("left behind: %q", m)
	}
}

func TestNoServer(t *testing.T) {
	testenv.Tool(t, "ssh")
	s := openSink(t, "ssh://127.0.0.1:"+freePort(t)+"/x/?config=/dev/null")
	if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, sinks.ErrTransient) || !strings.Contains(err.Error(), "refused") {
		t.Errorf("Stat: %v", err)
	}
}
