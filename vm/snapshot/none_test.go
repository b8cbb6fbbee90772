// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vmdk"
)

func TestNone(t *testing.T) {
	eachNaming(t, func(t *testing.T, esx2 bool) {
		g := newGuest(t, esx2)
		s, err := Take(t.Context(), None{}, nil, g.request())
		if err != nil || s.Consistency != PoweredOff || s.Provider != "none" || len(s.Disks) != 2 {
			t.Fatalf("%+v, %v", s, err)
		}
		g.same("first", &s.Disks[0], g.model[0])
		if err := errors.Join(s.Check(t.Context()), s.Release(t.Context(), true)); err != nil {
			t.Fatal(err)
		}
		g.lock()
		if _, err := Take(t.Context(), None{}, nil, g.request()); !errors.Is(err, disk.ErrInUse) || !strings.Contains(err.Error(), "seems to be running") {
			t.Fatalf("a machine that is running: %v", err)
		}
		r := g.request()
		r.AllowInUse = true
		if s, err = Take(t.Context(), None{}, nil, r); err != nil || s.Consistency != Crash {
			t.Fatalf("%+v, %v", s, err)
		}
		g.must(s.Release(t.Context(), true))
		r.Disks = []string{"scsi0:1", "scsi0:7"}
		if _, err := Take(t.Context(), None{}, nil, r); err == nil || !strings.Contains(err.Error(), "disk scsi0:7: no such disk") {
			t.Fatalf("a disk that is not there: %v", err)
		}
	})
}

// TestNoneChanges changes files while they are open.
func TestNoneChanges(t *testing.T) {
	for what, change := range map[string]func(g *guest, path string) error{
		"written to": func(_ *guest, path string) error {
			return os.Chtimes(path, time.Now(), time.Now().Add(time.Hour))
		},
		"replaced": func(_ *guest, path string) error {
			b, err := os.ReadFile(path)
			return errors.Join(err, os.Remove(path), os.WriteFile(path, b, 0o600))
		},
		"bytes and has": func(_ *guest, path string) error { return os.Truncate(path, guestSectors*512-512) },
		"no such file":  func(_ *guest, path string) error { return os.Remove(path) },
		"open for writing": func(g *guest, path string) error {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			g.t.Cleanup(func() { _ = f.Close() })
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			g := newGuest(t, true)
			path := filepath.Join(filepath.Dir(g.vmx), diskName(1))
			s, err := Take(t.Context(), None{}, nil, g.request())
			g.must(err)
			defer s.Release(t.Context(), false)
			var warned []string
			r := g.request()
			r.AllowInUse, r.Warn = true, func(s string) { warned = append(warned, s) }
			allowed, err := Take(t.Context(), None{}, nil, r)
			g.must(err)
			defer allowed.Release(t.Context(), false)
			g.must(change(g, path))
			if err := s.Check(t.Context()); err == nil || !strings.Contains(err.Error(), what) {
				t.Fatalf("check: %v", err)
			}
			if err := allowed.Check(t.Context()); err != nil {
				t.Fatalf("check with use allowed: %v", err)
			}
			if known := what == "open for writing"; (len(warned) == 0) != known {
				t.Fatalf("warnings: %q", warned)
			}
		})
	}
}

// TestNoneWriter has a disk alone that a process has open for writing.
func TestNoneWriter(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d.raw")
	f, err := os.Create(path)
	if err == nil {
		err = f.Truncate(1 << 20)
	}
	if err != nil {
		t.Fatal(err)
	}
	r := &Request{Path: path, Open: vmdk.Options{Format: vmdk.SourceRaw}}
	if _, err := Take(t.Context(), None{}, nil, r); !errors.Is(err, disk.ErrInUse) || !strings.Contains(err.Error(), "--allow-in-use") {
		t.Fatalf("a disk that is open for writing: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := Take(t.Context(), None{}, nil, r)
	if err != nil || s.Consistency != Crash || s.Disks[0].Key != LoneDiskKey {
		t.Fatalf("%+v, %v", s, err)
	}
	if err := errors.Join(s.Check(t.Context()), s.Release(t.Context(), true)); err != nil {
		t.Fatal(err)
	}
}
