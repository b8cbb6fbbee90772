// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package remote

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/sums"
	"github.com/vmstream/vmstream/internal/testenv"
)

// local is a stand-in for ssh: it gives the command to a shell of this host, as
// sshd gives it to the login shell.
const local = `echo "$1" >> "$LOG"; exec /bin/sh -c "$2"`

// standIn puts a script in the place of ssh and returns what it logs to.
func standIn(t *testing.T, script string) string {
	t.Helper()
	bin := t.TempDir()
	testenv.Tool(t, "tar")
	if err := os.WriteFile(filepath.Join(bin, "ssh"), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(bin, "log")
	t.Setenv("PATH", bin+string(filepath.ListSeparator)+os.Getenv("PATH"))
	t.Setenv("LOG", log)
	return log
}

// backup makes a directory with digests.
func backup(t *testing.T, content string) string {
	t.Helper()
	dir := t.TempDir()
	for name, c := range map[string]string{"a 'b'.vmx": content, "disk-s001.vmdk": strings.Repeat(content, 100_000), "empty": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(c), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b, err := sums.Make(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, sums.Name), b, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func list(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func same(t *testing.T, a, b string) {
	t.Helper()
	if la, lb := list(t, a), list(t, b); !slices.Equal(la, lb) {
		t.Fatalf("%q and %q", la, lb)
	}
	for _, name := range list(t, a) {
		x, err := os.ReadFile(filepath.Join(a, name))
		y, err2 := os.ReadFile(filepath.Join(b, name))
		if err != nil || err2 != nil || !bytes.Equal(x, y) {
			t.Fatalf("%s differs: %v, %v", name, err, err2)
		}
	}
}

// TestSendFetch sends to directories with every kind of name, twice, and
// fetches what has been sent.
func TestSendFetch(t *testing.T) {
	log := standIn(t, local)
	first, second := backup(t, "first"), backup(t, "second, longer")
	root := t.TempDir()
	t.Chdir(root)
	for _, dir := range []string{
		filepath.Join(root, "x/y/web01"), "relative", "-rf", "a b/$(touch injected)", "a b/`touch injected`;touch injected",
		"it's/\"quoted\"", filepath.Join(root, "slash") + "/", "ü/*", `back\slash`, "!x",
	} {
		for _, from := range []string{first, second} {
			if err := Send(t.Context(), "user@host", dir, from); err != nil {
				t.Fatalf("%s: %v", dir, err)
			}
			same(t, from, dir)
			if left := list(t, filepath.Dir(filepath.Clean(dir))); slices.ContainsFunc(left, func(s string) bool { return strings.HasPrefix(s, ".vmstream") || s == "injected" }) {
				t.Fatalf("%s: left: %q", dir, left)
			}
		}
		to := t.TempDir()
		if err := Fetch(t.Context(), "user@host", dir, to); err != nil {
			t.Fatal(err)
		}
		same(t, second, to)
	}
	if b, err := os.ReadFile(log); err != nil || strings.ReplaceAll(string(b), "user@host\n", "") != "" {
		t.Errorf("%v: hosts: %s", err, b)
	}
}

// TestSendFails has ssh and what it runs fail in every way: nothing is left, and
// what was there stays.
func TestSendFails(t *testing.T) {
	kept := backup(t, "kept")
	for name, c := range map[string]struct{ script, says string }{
		"no connection":         {`echo "Permission denied" >&2; exit 255`, "exit status 255: Permission denied"},
		"reads all, then fails": {`cat > /dev/null; echo a; echo b >&2; exit 3`, "exit status 3: b"},
		"goes away":             {`head -c 1000 > /dev/null; exit 1`, "exit status 1"},
		"killed":                {`kill -9 $$`, "signal: killed"},
		"cut":                   {`head -c 20000 | /bin/sh -c "$2"`, "exit status 1"},
		"cut between files":     {`head -c 1024 | /bin/sh -c "$2"`, "exit status 1"},
		"nothing arrives":       {`/bin/sh -c "$2" < /dev/null`, "exit status 1"},
		"damaged":               {`sed s/different/DIFFERENT/ | /bin/sh -c "$2"`, "what has arrived is damaged"},
		"no tar":                {`mkdir -p "$LOG.bin"; printf '#!/bin/sh\nexit 1\n' > "$LOG.bin/tar"; chmod +x "$LOG.bin/tar"; PATH="$LOG.bin:$PATH" /bin/sh -c "$2"`, "could not be written"},
		"no second rename":      {`mkdir -p "$LOG.bin"; printf '#!/bin/sh\ncase $1 in *send-????????????????) exit 1;; esac; exec /bin/mv "$@"\n' > "$LOG.bin/mv"; chmod +x "$LOG.bin/mv"; PATH="$LOG.bin:$PATH" /bin/sh -c "$2"`, "could not be made"},
	} {
		t.Run(name, func(t *testing.T) {
			standIn(t, c.script)
			parent := t.TempDir()
			for _, there := range []bool{false, true} {
				if there {
					if err := os.CopyFS(filepath.Join(parent, "web01"), os.DirFS(kept)); err != nil {
						t.Fatal(err)
					}
				}
				err := Send(t.Context(), "h", filepath.Join(parent, "web01"), backup(t, "different"))
				if err == nil || !strings.Contains(err.Error(), c.says) && (there || name != "no second rename") {
					t.Errorf("%v, want %q", err, c.says)
				}
				left := list(t, parent)
				if !there && len(left) > 0 || there && !slices.Equal(left, []string{"web01"}) {
					t.Errorf("left: %q", left)
				}
				if there {
					same(t, kept, filepath.Join(parent, "web01"))
				}
			}
		})
	}
}

// TestSendReplaces leaves alone what no backup is.
func TestSendReplaces(t *testing.T) {
	standIn(t, local)
	parent := t.TempDir()
	other := filepath.Join(parent, "web01")
	if err := os.Mkdir(other, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(other, "thesis"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := Send(t.Context(), "h", other, backup(t, "x"))
	if err == nil || !strings.Contains(err.Error(), "was not made by vmsnap") {
		t.Errorf("%v", err)
	}
	if got := list(t, other); !slices.Equal(got, []string{"thesis"}) || len(list(t, parent)) != 1 {
		t.Errorf("left: %q", got)
	}
}

// TestStopped has an ssh that neither reads nor ends.
func TestStopped(t *testing.T) {
	testenv.Long(t)
	standIn(t, `trap "" TERM; while :; do sleep 1; done`)
	for name, run := range map[string]func(context.Context) error{
		"send":  func(ctx context.Context) error { return Send(ctx, "h", "/x/y", backup(t, "x")) },
		"fetch": func(ctx context.Context) error { return Fetch(ctx, "h", "/x/y", t.TempDir()) },
	} {
		stop := errors.New("stop")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(200*time.Millisecond, func() { cancel(stop) })
		if err := run(ctx); !errors.Is(err, stop) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFetchFails(t *testing.T) {
	from := backup(t, "x")
	for name, c := range map[string]struct {
		script, says string
		kind         error
	}{
		"no connection": {script: `exit 255`, says: "exit status 255"},
		"no directory":  {script: `cd / && exec /bin/sh -c "cd /none/such && tar -cf - ."`, says: "/none/such"},
		"cut":           {script: `/bin/sh -c "$2" | head -c 20000`, kind: disk.ErrTruncated},
		"nothing":       {script: `exit 0`, kind: disk.ErrTruncated},
		"no tar":        {script: `/bin/sh -c "$2" | tr a-z b-za`, kind: disk.ErrCorrupt},
		"ends badly":    {script: `/bin/sh -c "$2"; exit 9`, says: "exit status 9"},
	} {
		t.Run(name, func(t *testing.T) {
			standIn(t, c.script)
			err := Fetch(t.Context(), "h", from, t.TempDir())
			if err == nil || c.kind != nil && !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %v, %q", err, c.kind, c.says)
			}
		})
	}
}

// TestHostileTar fetches from a host that sends what it should not.
func TestHostileTar(t *testing.T) {
	for name, h := range map[string][]tar.Header{
		"above":    {{Name: "../x", Typeflag: tar.TypeReg}},
		"absolute": {{Name: "/tmp/x", Typeflag: tar.TypeReg}},
		"twice":    {{Name: "x", Typeflag: tar.TypeReg}, {Name: "./x", Typeflag: tar.TypeReg}},
	} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for i := range h {
			if err := w.WriteHeader(&h[i]); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if err := unpack(t.Context(), &b, t.TempDir()); !errors.Is(err, disk.ErrOutside) && !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{
		{Name: "./", Typeflag: tar.TypeDir},
		{Name: "./link", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"},
		{Name: "./sub/file", Typeflag: tar.TypeReg},
		{Name: "./file", Typeflag: tar.TypeReg, Mode: 0o4777},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := unpack(t.Context(), &b, dir); err != nil || fmt.Sprint(list(t, dir)) != "[file]" {
		t.Errorf("%v: %q", err, list(t, dir))
	}
	if st, err := os.Stat(filepath.Join(dir, "file")); err != nil || st.Mode() != 0o700 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
}

// TestSparseTar refuses sparse files, in both ways that GNU tar writes them.
func TestSparseTar(t *testing.T) {
	tool := testenv.Tool(t, "tar")
	from := t.TempDir()
	f, err := os.Create(filepath.Join(from, "holes"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(10<<20), f.Close()); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"gnu", "posix"} {
		b, err := exec.CommandContext(t.Context(), tool, "--format", format, "-C", from, "-cSf", "-", ".").Output()
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if err := unpack(t.Context(), bytes.NewReader(b), dir); !errors.Is(err, disk.ErrUnsupported) || len(list(t, dir)) > 0 {
			t.Errorf("%s: %v, %q", format, err, list(t, dir))
		}
	}
}

func TestCheck(t *testing.T) {
	for _, host := range []string{"", "-oProxyCommand=x", "a b", "a\nb"} {
		if CheckHost(host) == nil {
			t.Errorf("host %q is taken", host)
		}
	}
	for _, dir := range []string{"", "/", "..", "a/..", "a/.", "a\nb"} {
		if CheckDir(dir) == nil {
			t.Errorf("directory %q is taken", dir)
		}
	}
}

// FuzzUnpack gives what another host may send: nothing appears but regular files
// in the directory.
func FuzzUnpack(f *testing.F) {
	for _, names := range [][]string{{"./", "./a", "./SHA256SUMS"}, {"../x"}, {"a/b", "a"}} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, name := range names {
			h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Size: 3, Mode: 0o644}
			if strings.HasSuffix(name, "/") {
				h.Typeflag, h.Size = tar.TypeDir, 0
			}
			if err := w.WriteHeader(h); err != nil {
				f.Fatal(err)
			}
			if h.Size > 0 {
				_, _ = w.Write([]byte("abc")) // to memory
			}
		}
		_ = w.Close() // to memory
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		parent := t.TempDir()
		dir := filepath.Join(parent, "dir")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		_ = unpack(t.Context(), bytes.NewReader(b), dir) // most is refused
		if got := list(t, parent); !slices.Equal(got, []string{"dir"}) {
			t.Fatalf("outside: %q", got)
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if !e.Type().IsRegular() {
				t.Fatalf("%s is %v", e.Name(), e.Type())
			}
		}
	})
}

// TestSendStopped has the far side hear of the end of the connection between
// moving the earlier backup away and giving the new one its name.
func TestSendStopped(t *testing.T) {
	mv, err := exec.LookPath("mv")
	if err != nil {
		t.Skip(err)
	}
	standIn(t, local)
	bin, _, _ := strings.Cut(os.Getenv("PATH"), string(filepath.ListSeparator))
	script := "#!/bin/sh\n" + mv + ` "$@" || exit 1; kill -HUP $PPID; sleep 0.1` + "\n"
	if err := os.WriteFile(filepath.Join(bin, "mv"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	first, second := backup(t, "first"), backup(t, "second")
	dir := filepath.Join(t.TempDir(), "web01")
	for _, from := range []string{first, second} {
		_ = Send(t.Context(), "user@host", dir, from) // what counts is what is there
	}
	same(t, second, dir)
	if left := list(t, filepath.Dir(dir)); len(left) != 1 {
		t.Errorf("left: %q", left)
	}
}
