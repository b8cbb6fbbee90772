// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vm_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/vm"
)

// TestLoadCorpus gives each real configuration a directory with the disks that
// it names, as if the machine had been copied there.
func TestLoadCorpus(t *testing.T) {
	for name, want := range corpusConfigs() {
		b, err := os.ReadFile(testenv.Corpus(t, "vmdk/vmx/vmx2xml-"+name+".vmx"))
		if err != nil {
			t.Fatal(err)
		}
		dir := tree(t, map[string]string{"x.vmx": string(b)})
		for _, d := range want.disks {
			base := filepath.Base(strings.Fields(d)[1])
			if err := os.WriteFile(filepath.Join(dir, base), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		m, err := vm.Load(filepath.Join(dir, "x.vmx"), vm.LoadOptions{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if m.Name != want.name || m.GuestOS != want.guestOS || len(m.Disks) != len(want.disks) || m.Suspended || m.InUse != nil {
			t.Errorf("%s: got %+v", name, m)
		}
		for _, d := range m.Disks {
			if d.Path != filepath.Join(dir, d.File.Base) || d.TopPath != d.Path || d.RedoLogs != 0 {
				t.Errorf("%s: %s is at %s, %s", name, d.Key, d.Path, d.TopPath)
			}
		}
	}
}

func TestLoadFindsDisks(t *testing.T) {
	elsewhere := tree(t, map[string]string{"a.vmdk": "", "sub/b.vmdk": "", "target.vmdk": ""})
	for _, tt := range []struct {
		name, file string
		files      []string // in the directory
		want       string
	}{
		{"relative", "a.vmdk", []string{"a.vmdk"}, "DIR/a.vmdk"},
		{"below", "sub/a.vmdk", []string{"sub/a.vmdk", "a.vmdk"}, "DIR/sub/a.vmdk"},
		{"backslash", `sub\a.vmdk`, []string{"sub/a.vmdk"}, "DIR/sub/a.vmdk"},
		{"backslash in the name", `sub\a.vmdk`, []string{"sub/a.vmdk", `sub\a.vmdk`}, `DIR/sub\a.vmdk`},
		{"absolute", elsewhere + "/a.vmdk", []string{"a.vmdk"}, elsewhere + "/a.vmdk"},
		{"absolute, copied", "/no/such/dir/a.vmdk", []string{"a.vmdk"}, "DIR/a.vmdk"},
		{"datastore, copied", "/vmfs/volumes/ds1/web/a.vmdk", []string{"a.vmdk"}, "DIR/a.vmdk"},
		{"datastore, mapped", "/vmfs/volumes/ds2/sub/b.vmdk", []string{"b.vmdk"}, elsewhere + "/sub/b.vmdk"},
		{"datastore, out of the map", "/vmfs/volumes/ds2/../../b.vmdk", []string{"b.vmdk"}, "DIR/b.vmdk"},
		{"ESX 2.x, copied", "vmhba0:0:0:1:a.vmdk", []string{"a.vmdk"}, "DIR/a.vmdk"},
		{"ESX 2.x, mapped", "vmhba0:0:0:9:a.vmdk", []string{"a.vmdk"}, elsewhere + "/a.vmdk"},
		{"colon in the name", "v:a.vmdk", []string{"a.vmdk", "v:a.vmdk"}, "DIR/v:a.vmdk"},
		{"volume that leads out", "..:a.vmdk", []string{"a.vmdk"}, "DIR/a.vmdk"},
		{"Windows", `C:\vm\web\a.vmdk`, []string{"a.vmdk"}, "DIR/a.vmdk"},
		{"bytes that are not UTF-8", "gr\xfcn.vmdk", []string{"gr\xfcn.vmdk"}, "DIR/gr\xfcn.vmdk"},
		{"the same as UTF-8", "gr\xfcn.vmdk", []string{"grün.vmdk"}, "DIR/grün.vmdk"},
		{"escaped", "a|7Cb.vmdk", []string{"a|b.vmdk"}, "DIR/a|b.vmdk"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files := map[string]string{"web.vmx": present("scsi0:0", tt.file)}
			for _, f := range tt.files {
				files[f] = ""
			}
			dir := tree(t, files)
			m, err := vm.Load(filepath.Join(dir, "web.vmx"), vm.LoadOptions{Volumes: map[string]string{"ds2": elsewhere, "vmhba0:0:0:9": elsewhere}})
			if err != nil {
				t.Fatal(err)
			}
			if want := strings.Replace(tt.want, "DIR", dir, 1); m.Disks[0].Path != want {
				t.Errorf("found %s, want %s", m.Disks[0].Path, want)
			}
		})
	}
}

func TestLoadErrors(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  error
		text  string
	}{
		{"no configuration", nil, fs.ErrNotExist, "web.vmx"},
		{"directory for a configuration", map[string]string{"web.vmx/": ""}, disk.ErrUnsupported, "web.vmx"},
		{"large configuration", map[string]string{"web.vmx": strings.Repeat("#\n", vm.MaxConfigBytes)}, disk.ErrUnsupported, "web.vmx: vm configuration"},
		{"no text", map[string]string{"web.vmx": "\x00"}, disk.ErrUnknown, "web.vmx: vm configuration"},
		{"encrypted", map[string]string{"web.vmx": "encryption.keySafe = \"x\"\n"}, disk.ErrUnsupported, "web.vmx: vm configuration: encryption.keySafe"},
		{"missing disk", map[string]string{"web.vmx": present("scsi0:0", "a.vmdk")}, fs.ErrNotExist, `scsi0:0: the disk "a.vmdk" is not at `},
		{"missing below, not taken from above", map[string]string{"web.vmx": present("scsi0:0", "sub/a.vmdk"), "a.vmdk": ""}, fs.ErrNotExist, `scsi0:0: the disk "sub/a.vmdk"`},
		{"directory for a disk", map[string]string{"web.vmx": present("scsi0:0", "a.vmdk"), "a.vmdk/": ""}, disk.ErrUnsupported, "scsi0:0"},
		{"link to nothing", map[string]string{"web.vmx": present("scsi0:0", "a.vmdk"), "a.vmdk": "-> nowhere"}, fs.ErrNotExist, "scsi0:0"},
		{"one disk twice", map[string]string{"web.vmx": present("scsi0:0", "/vmfs/volumes/x/a.vmdk") + present("scsi0:1", "/vmfs/volumes/y/a.vmdk"), "a.vmdk": ""}, disk.ErrMismatch, "scsi0:1"},
		{"gap in redo logs", map[string]string{"web.vmx": present("scsi0:0", "a.vmdk"), "a.vmdk": "", "a.vmdk.REDO.REDO": ""}, disk.ErrCorrupt, "scsi0:0"},
		{"noted redo log is missing", map[string]string{"web.vmx": present("scsi0:0", "a.vmdk") + "scsi0:0.redo = \"v:a.vmdk.REDO\"\n", "a.vmdk": ""}, fs.ErrNotExist, "scsi0:0.redo"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := tree(t, tt.files)
			m, err := vm.Load(filepath.Join(dir, "web.vmx"), vm.LoadOptions{})
			if m != nil || !errors.Is(err, tt.want) || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, %v, want %v with %q", m, err, tt.want, tt.text)
			}
		})
	}
}

func TestLoadConfinesDisks(t *testing.T) {
	outside := tree(t, map[string]string{"a.vmdk": "", "deep/b.vmdk": ""})
	dir := tree(t, map[string]string{
		"inside.vmx": present("scsi0:0", "c.vmdk"), "c.vmdk": "",
		"abs.vmx":  present("scsi0:0", outside+"/a.vmdk"),
		"link.vmx": present("scsi0:0", "link.vmdk"), "link.vmdk": "-> " + outside + "/a.vmdk",
		"deep.vmx": present("scsi0:0", outside+"/deep/b.vmdk"),
	})
	for _, tt := range []struct {
		config string
		roots  []string
		ok     bool
	}{
		{"inside", []string{"/no/such/root"}, true},
		{"abs", nil, true},
		{"abs", []string{outside}, true},
		{"abs", []string{"/no/such/root"}, false},
		{"abs", []string{outside + "/deep"}, false},
		{"link", []string{"/no/such/root"}, false},
		{"link", []string{outside}, true},
		{"deep", []string{"/no/such/root", outside}, true},
	} {
		_, err := vm.Load(filepath.Join(dir, tt.config+".vmx"), vm.LoadOptions{Roots: tt.roots})
		if tt.ok && err != nil || !tt.ok && !errors.Is(err, disk.ErrOutside) {
			t.Errorf("%s in %q: %v", tt.config, tt.roots, err)
		}
	}
}

func TestLoadRedoLogs(t *testing.T) {
	base := present("scsi0:0", "vmhba0:0:0:1:a.vmdk")
	redo, redo2 := "a.vmdk.REDO", "a.vmdk.REDO.REDO"
	for _, tt := range []struct {
		name, text string
		files      []string
		top        string
		levels     int
		warnings   []string
	}{
		{"none", base, nil, "a.vmdk", 0, nil},
		{"one", base + "scsi0:0.redo = \"vmhba0:0:0:1:a.vmdk.REDO\"\n", []string{redo}, redo, 1, nil},
		{"one, not noted", base + "scsi0:0.mode = \"append\"\nscsi0:0.redo = \"\"\n", []string{redo}, redo, 1, nil},
		{"two", base, []string{redo, redo2}, redo2, 2, []string{"scsi0:0: " + redo2 + ": 2 redo logs: a commit"}},
		{"dropped", base + "scsi0:0.mode = \"nonpersistent\"\nscsi0:0.redo = \"gone\"\n", []string{redo}, "a.vmdk", 0, []string{"scsi0:0: " + redo + ": redo logs of a disk of mode nonpersistent"}},
		{"gone", base + "scsi0:0.mode = \"independent-nonpersistent\"\nscsi0:0.redo = \"a.vmdk.REDO_x1\"\n", nil, "a.vmdk", 0, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			files := map[string]string{"web.cfg": tt.text, "a.vmdk": "", "a.vmdk.REDOX": ""}
			for _, f := range tt.files {
				files[f] = "COWD"
			}
			dir := tree(t, files)
			m, err := vm.Load(filepath.Join(dir, "web.cfg"), vm.LoadOptions{})
			if err != nil {
				t.Fatal(err)
			}
			d := m.Disks[0]
			if !d.Raw || d.Path != filepath.Join(dir, "a.vmdk") || d.TopPath != filepath.Join(dir, tt.top) || d.RedoLogs != tt.levels {
				t.Errorf("got %+v", d)
			}
			checkPrefixes(t, shorten(dir, m.Warnings), tt.warnings)
		})
	}
}

func TestRedoTop(t *testing.T) {
	dir := tree(t, map[string]string{
		"a": "", "b": "", "b.REDO": "", "b.REDO.REDO": "", "b.redo.REDO.REDO": "", "c": "", "c.REDO": "", "c.REDO.REDO.REDO": "",
		"d": "", "d.REDO/": "", "e": "", "e.REDO": "-> b", "f.REDO": "",
	})
	for _, tt := range []struct {
		base, top string
		levels    int
		want      error
	}{
		{"a", "a", 0, nil},
		{"b", "b.REDO.REDO", 2, nil},
		{"c", "", 0, disk.ErrCorrupt},
		{"d", "", 0, disk.ErrUnsupported},
		{"e", "", 0, disk.ErrUnsupported},
		{"f", "f.REDO", 1, nil},
		{strings.Repeat("x", 252), strings.Repeat("x", 252), 0, nil}, // x.REDO would be too long a name
	} {
		top, levels, err := vm.RedoTop(filepath.Join(dir, tt.base))
		if tt.want != nil {
			if !errors.Is(err, tt.want) || top != "" {
				t.Errorf("%s: %s, %v, want %v", tt.base, top, err, tt.want)
			}
			continue
		}
		if err != nil || top != filepath.Join(dir, tt.top) || levels != tt.levels {
			t.Errorf("%s: %s, %d, %v", tt.base, top, levels, err)
		}
	}
}

func TestLoadNames(t *testing.T) {
	for text, want := range map[string]string{
		"a = \"b\"\n":                                 "my machine",
		"displayName = \"\"\n":                        "my machine",
		"displayName = \"../x\"\n":                    "_x",
		"displayName = \"/etc/passwd\"\n":             "_etc_passwd",
		"displayName = \"%2e%2e%2fx\"\n":              "%2e%2e_x",
		"displayName = \"a|00b|0Ac\"\n":               "a_b_c",
		"displayName = \"..\"\n":                      "vm",
		"displayName = \"" + strings.Repeat("n", 999): "my machine", // no closing quote: the line is ignored
	} {
		m, err := vm.Load(filepath.Join(tree(t, map[string]string{"my machine.vmx": text + "\nx = \"y\"\n"}), "my machine.vmx"), vm.LoadOptions{})
		if err != nil || m.Name != want {
			t.Errorf("%q: %+v, %v, want %q", text, m, err, want)
		}
	}
}

func TestLoadByLink(t *testing.T) {
	dir := tree(t, map[string]string{"ds/web/web.vmx": present("scsi0:0", "a.vmdk"), "ds/web/a.vmdk": "", "inv/w.vmx": "-> ../ds/web/web.vmx"})
	m, err := vm.Load(filepath.Join(dir, "inv/w.vmx"), vm.LoadOptions{})
	if err != nil || m.Path != filepath.Join(dir, "ds/web/web.vmx") || m.Name != "web" || m.Files[0].Path != m.Path {
		t.Errorf("%+v, %v", m, err)
	}
}
