// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package sums

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
)

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestMakeCheck makes digests that sha256sum and Check take, until something
// changes.
func TestMakeCheck(t *testing.T) {
	tool := testenv.Tool(t, "sha256sum")
	dir := t.TempDir()
	write(t, dir, "a b.vmdk", strings.Repeat("x", 1<<20))
	write(t, dir, "ü", "")
	if there, err := Check(t.Context(), dir); there || err != nil {
		t.Fatalf("no sums: %v, %v", there, err)
	}
	b, err := Make(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, Name, string(b))
	again, err := Make(t.Context(), dir)
	if err != nil || !bytes.Equal(b, again) {
		t.Fatalf("%v: %s and %s", err, b, again)
	}
	c := exec.CommandContext(t.Context(), tool, "-c", Name)
	c.Dir = dir
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	write(t, dir, "other", "does not matter")
	if there, err := Check(t.Context(), dir); !there || err != nil {
		t.Fatalf("%v, %v", there, err)
	}
	write(t, dir, "ü", "changed")
	if _, err := Check(t.Context(), dir); !errors.Is(err, disk.ErrMismatch) || !strings.Contains(err.Error(), "ü") {
		t.Errorf("changed: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "ü")); err != nil {
		t.Fatal(err)
	}
	if _, err := Check(t.Context(), dir); !errors.Is(err, disk.ErrMismatch) {
		t.Errorf("missing: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("stop")
	cancel(stop)
	if _, err := Make(ctx, dir); !errors.Is(err, stop) {
		t.Errorf("stopped: %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	digest := strings.Repeat("0", 64)
	for _, c := range []struct {
		text string
		kind error
	}{
		{digest + "  a", disk.ErrTruncated},
		{digest + " a\n", disk.ErrCorrupt},
		{digest[1:] + "  a\n", disk.ErrCorrupt},
		{"x" + digest[1:] + "  a\n", disk.ErrCorrupt},
		{digest + "  \n", disk.ErrCorrupt},
		{digest + "  a\n" + digest + "  a\n", disk.ErrCorrupt},
		{digest + "  ../a\n", disk.ErrOutside},
		{digest + "  ..\n", disk.ErrOutside},
		{digest + "  " + Name + "\n", disk.ErrOutside},
		{strings.Repeat("\n", maxBytes+1), disk.ErrUnsupported},
	} {
		if _, err := Parse([]byte(c.text)); !errors.Is(err, c.kind) {
			t.Errorf("%.80q: %v, want %v", c.text, err, c.kind)
		}
	}
	if _, err := Make(t.Context(), func() string { d := t.TempDir(); write(t, d, `a\b`, ""); return d }()); !errors.Is(err, disk.ErrOutside) {
		t.Errorf("a name that no line can have: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	digest := strings.Repeat("0a", 32)
	f.Add([]byte(digest + "  a\n" + digest + " *b\n"))
	f.Add([]byte(digest + "  ../a\n"))
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := Parse(b)
		if err != nil {
			return
		}
		var out bytes.Buffer
		for _, e := range list {
			if e.Name != filepath.Base(e.Name) || !filepath.IsLocal(e.Name) {
				t.Fatalf("name %q", e.Name)
			}
			fmt.Fprintf(&out, "%x  %s\n", e.SHA256, e.Name)
		}
		if again, err := Parse(out.Bytes()); err != nil || len(again) != len(list) {
			t.Fatalf("%v", err)
		}
	})
}
