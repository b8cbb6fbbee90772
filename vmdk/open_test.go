// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmdk

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
)

func flatDescriptor(sectors int, line string) []byte {
	return []byte(descriptorText(TypeMonolithicFlat, 1, NoParent, "", fmt.Sprintf(line, sectors)))
}

// TestEntryPoint is about what a named file is taken for.
func TestEntryPoint(t *testing.T) {
	hosted, hostedWant := damageHosted(t)
	raw := randomBytes(2048, 5)
	cowdRoot := genCOWD(raw, []fate{stored, stored, stored, stored}, 1, 1, true)
	cowdChild := genCOWD(raw, []fate{stored, stored, stored, stored}, 1, 1, false)
	descriptor := flatDescriptor(4, `RW %d FLAT "x-flat.vmdk" 0`)
	for _, tt := range []struct {
		name  string
		bytes []byte
		o     Options
		kind  string // "" if it is refused
		want  error
	}{
		{"x.raw", raw, Options{}, KindRaw, nil},
		{"x.RAW", hosted, Options{}, KindRaw, nil},
		{"x.dd", descriptor, Options{}, KindRaw, nil},
		{"x.img", raw, Options{}, KindRaw, nil},
		{"x.img", hosted, Options{}, TypeMonolithicSparse, nil},
		{"x.img", hosted, Options{Format: SourceRaw}, KindRaw, nil},
		{"x.img", descriptor, Options{}, "", disk.ErrOutside},
		{"x.img", descriptor, Options{AllowOutside: true}, "", disk.ErrOutside},
		{"x.img", descriptor, Options{Format: SourceVMDK}, TypeMonolithicFlat, nil},
		{"x.dsk", descriptor, Options{Role: RoleConfigured}, "", disk.ErrOutside},
		{"x.vmdk", descriptor, Options{}, TypeMonolithicFlat, nil},
		{"x.VMDK", descriptor, Options{}, TypeMonolithicFlat, nil},
		{"x.vmdk", slices.Concat(descriptor, []byte{0}, descriptor[len(descriptor)-6:], make([]byte, 80)), Options{}, TypeMonolithicFlat, nil}, // as QEMU leaves it
		{"x.vmdk", slices.Concat(descriptor, []byte{0}, descriptor[len(descriptor)-9:]), Options{}, "", disk.ErrCorrupt},
		{"x.vmdk", slices.Concat(descriptor, []byte("\x00#\n")), Options{}, "", disk.ErrCorrupt},
		{"x.vmdk", hosted, Options{}, TypeMonolithicSparse, nil},
		{"x.vmdk", raw, Options{}, "", disk.ErrUnknown},
		{"x", raw, Options{}, "", disk.ErrUnknown},
		{"x", raw, Options{Format: SourceVMDK}, "", disk.ErrUnknown},
		{"x", raw, Options{Format: "qcow2"}, "", disk.ErrUnsupported},
		{"x.raw", raw, Options{Format: SourceVMDK}, "", disk.ErrUnknown},
		{"x.vmdk", raw, Options{Role: RoleConfigured}, KindRaw, nil},
		{"x.dsk", raw, Options{Role: RoleConfigured}, KindRaw, nil},
		{"x.dsk", raw[:2047], Options{Role: RoleConfigured}, "", disk.ErrCorrupt},
		{"x.dsk", raw[:2047], Options{Format: SourceRaw, Role: RoleConfigured}, KindRaw, nil},
		{"x.vmdk", hosted, Options{Role: RoleConfigured}, TypeMonolithicSparse, nil},
		{"x.vmdk", append([]byte("\xa2\x72\x19\xf6"), raw...), Options{Role: RoleConfigured}, "", disk.ErrUnsupported},
		{"x.vmdk", append([]byte("kdmv"), raw...), Options{}, "", disk.ErrUnsupported},
		{"x.pln", []byte("# Plain Disk\nDRIVETYPE ide\n"), Options{}, "", disk.ErrUnsupported},
		{"x.pln", []byte("DRIVETYPE scsi\nHEADS 1\n"), Options{}, "", disk.ErrUnsupported},
		{"x.vmss", []byte("\xd2\xbe\xd2\xbe0000"), Options{}, "", disk.ErrUnsupported},
		{"x.vmdk", []byte("version=4\nCID=1\n"), Options{}, "", disk.ErrUnsupported},
		{"x.vmdk", []byte("# Disk DescriptorFile\nnonsense\n"), Options{}, "", disk.ErrCorrupt},
		{"x.vmdk", append(descriptor, make([]byte, 2<<20)...), Options{}, "", disk.ErrCorrupt},
		{"x.vmdk", append(slices.Clone(descriptor), 0, 0, 0), Options{}, TypeMonolithicFlat, nil},
		{"x.vmdk", append(slices.Clone(descriptor), 0, 'x'), Options{}, "", disk.ErrCorrupt},
		{"x.vmdk", cowdRoot, Options{}, TypeVMFSSparse, nil},
		{"x.vmdk", cowdChild, Options{}, "", disk.ErrUnsupported},
		{"x-sesparse.vmdk", genSE(raw, []fate{stored}), Options{}, "", disk.ErrUnsupported},
		{"x.vmdk", nil, Options{}, "", disk.ErrUnknown},
		{"x.vmdk", []byte("KDMV"), Options{}, "", disk.ErrTruncated},
		{"x.vmdk", []byte("COWD"), Options{}, "", disk.ErrTruncated},
	} {
		t.Run(fmt.Sprintf("%s %.8q %v", tt.name, tt.bytes, tt.o.Format), func(t *testing.T) {
			dir := t.TempDir()
			writeFile(t, filepath.Join(dir, "x-flat.vmdk"), raw)
			path := writeFile(t, filepath.Join(dir, tt.name), tt.bytes)
			if tt.kind == "" {
				err := openError(t, path, tt.o)
				if !errors.Is(err, tt.want) {
					t.Errorf("%v, want %v", err, tt.want)
				}
				if err != nil && strings.Contains(err.Error(), "\n") {
					t.Errorf("the message has several lines: %v", err)
				}
				if errors.Is(tt.want, disk.ErrUnknown) && tt.o.Format == SourceAuto && !strings.Contains(err.Error(), "--source-format raw") {
					t.Errorf("no hint in %v", err)
				}
				return
			}
			d := openDisk(t, path, tt.o)
			if d.Info().Kind != tt.kind {
				t.Errorf("kind %q, want %q", d.Info().Kind, tt.kind)
			}
			switch tt.kind {
			case KindRaw:
				checkContent(t, d, tt.bytes)
			case TypeMonolithicSparse:
				checkContent(t, d, hostedWant)
			default:
				checkContent(t, d, raw)
			}
		})
	}
}

func TestBytesOfFlatExtentsAreNotProbed(t *testing.T) {
	hosted, _ := damageHosted(t)
	for _, b := range [][]byte{hosted, flatDescriptor(4, `RW %d FLAT "/etc/passwd" 0`+strings.Repeat("\n", 2048))[:2048], []byte(strings.Repeat("COWD", 512))} {
		dir := t.TempDir()
		b = b[:len(b)/512*512]
		writeFile(t, filepath.Join(dir, "x-flat.vmdk"), b)
		for _, keyword := range []string{"FLAT", "VMFS"} {
			path := writeFile(t, filepath.Join(dir, "x.vmdk"), flatDescriptor(len(b)/512, "RW %d "+keyword+` "x-flat.vmdk"`))
			checkContent(t, openDisk(t, path, Options{}), b)
		}
	}
}

func TestFlatExtents(t *testing.T) {
	b := patchwork(8*mib, 7)
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "a"), b[:4*mib])
	writeFile(t, filepath.Join(dir, "b"), b[4*mib:])
	open := func(o Options, lines ...string) (*Disk, error) {
		path := writeFile(t, filepath.Join(dir, "x.vmdk"), []byte(descriptorText("custom", 1, NoParent, "", strings.Join(lines, "\n"))))
		return Open(path, o)
	}
	t.Run("mixed", func(t *testing.T) {
		d, err := open(Options{}, `RW 100 FLAT "b" 7`, `NOACCESS 63 ZERO`, `rdonly 8192 flat "a" 0`, `RW 8192 FLAT "b"`)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		want := slices.Concat(b[4*mib+7*512:][:51200], make([]byte, 63*512), b)
		checkContent(t, d, want)
		if n := len(d.Info().Files); n != 3 {
			t.Errorf("files %q", d.Info().Files)
		}
	})
	t.Run("short", func(t *testing.T) {
		if _, err := open(Options{}, `RW 8193 FLAT "a" 0`); !errors.Is(err, disk.ErrTruncated) {
			t.Error(err)
		}
		if _, err := open(Options{}, `RW 1 FLAT "a" 8192`); !errors.Is(err, disk.ErrTruncated) {
			t.Error(err)
		}
		var warned []string
		o := Options{PadShort: true, Warn: func(s string) { warned = append(warned, s) }}
		for offset, have := range map[int]int{0: 8192, 100: 8092, 9000: 0} {
			d, err := open(o, fmt.Sprintf(`RW 9000 FLAT "a" %d`, offset), `RW 10 ZERO`)
			if err != nil {
				t.Fatal(err)
			}
			want := make([]byte, 9010*512)
			if have > 0 {
				copy(want, b[offset*512:4*mib])
			}
			checkContent(t, d, want)
			d.Close()
		}
		if len(warned) != 3 {
			t.Errorf("warnings %q", warned)
		}
	})
	t.Run("long", func(t *testing.T) {
		var warned []string
		d, err := open(Options{Warn: func(s string) { warned = append(warned, s) }}, `RW 100 FLAT "a" 0`)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		checkContent(t, d, b[:51200])
		if len(warned) != 1 {
			t.Errorf("warnings %q", warned)
		}
	})
	for _, line := range []string{
		`RW 8192 VMFSRDM "a"`, `RW 8192 VMFSRAW "a"`, `RW 8192 VMFSRAWRDM "a"`, `RW 8192 VSANSPARSE "a"`,
		`RW 8192 FANCY "a"`, `NOACCESS 8192 FLAT "a" 0`,
	} {
		t.Run(line, func(t *testing.T) {
			if _, err := open(Options{}, line); !errors.Is(err, disk.ErrUnsupported) {
				t.Error(err)
			}
		})
	}
	for _, line := range []string{`RW 8192 SPARSE "a"`, `RW 8192 VMFSSPARSE "a"`, `RW 8192 SESPARSE "a"`} {
		t.Run(line, func(t *testing.T) {
			if _, err := open(Options{}, line); !errors.Is(err, disk.ErrCorrupt) {
				t.Error(err)
			}
		})
	}
}

// TestFileNames is about what a descriptor may name.
func TestFileNames(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "vm")
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "sub"), 0o700), syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600)); err != nil {
		t.Fatal(err)
	}
	b := randomBytes(2048, 9)
	for _, name := range []string{"vm/in", "out", "vm/sub/in", "vm/back\\slash"} {
		writeFile(t, filepath.Join(top, name), b)
	}
	for link, target := range map[string]string{
		"link-in": "in", "link-abs-in": filepath.Join(dir, "in"), "link-out": "../out",
		"link-abs-out": filepath.Join(top, "out"), "link-dir": "..", "link-loop": "link-loop", "link-dead": "../nothing",
	} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name          string
		want, allowed error
	}{
		{"in", nil, nil},
		{"./in", nil, nil},
		{"sub/in", nil, nil},
		{"back\\slash", nil, nil},
		{"link-in", nil, nil},
		{"link-abs-in", nil, nil},
		{"../out", disk.ErrOutside, nil},
		{"sub/../in", disk.ErrOutside, nil},
		{"sub/../../out", disk.ErrOutside, nil},
		{`..\out`, disk.ErrOutside, fs.ErrNotExist},
		{`C:\out`, disk.ErrOutside, fs.ErrNotExist},
		{`\\.\PhysicalDrive0`, disk.ErrOutside, fs.ErrNotExist},
		{filepath.Join(top, "out"), disk.ErrOutside, nil},
		{filepath.Join(dir, "in"), disk.ErrOutside, nil},
		{"link-out", disk.ErrOutside, nil},
		{"link-abs-out", disk.ErrOutside, nil},
		{"link-dir/out", disk.ErrOutside, nil},
		{"link-loop", syscall.ELOOP, syscall.ELOOP},
		{"fifo", disk.ErrUnsupported, disk.ErrUnsupported},
		{"sub", disk.ErrUnsupported, disk.ErrUnsupported},
		{"/dev/null", disk.ErrOutside, disk.ErrUnsupported},
		{"nothing", fs.ErrNotExist, fs.ErrNotExist},
		{"in\x01", disk.ErrCorrupt, disk.ErrCorrupt},
		{"in\x7f", disk.ErrCorrupt, disk.ErrCorrupt},
		{strings.Repeat("x", 300), syscall.ENAMETOOLONG, syscall.ENAMETOOLONG},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := descriptorText(TypeMonolithicFlat, 1, NoParent, "", `RW 4 FLAT "`+tt.name+`" 0`)
			path := writeFile(t, filepath.Join(dir, "x.vmdk"), []byte(text))
			for allow, want := range map[bool]error{false: tt.want, true: tt.allowed} {
				d, err := Open(path, Options{AllowOutside: allow})
				if !errors.Is(err, want) {
					t.Errorf("allow outside %v: %v, want %v", allow, err, want)
				}
				if err == nil {
					checkContent(t, d, b)
					d.Close()
				} else if strings.ContainsAny(err.Error(), "\n\x01\x7f") {
					t.Errorf("control characters in the message %q", err)
				}
			}
		})
	}
	t.Run("descriptor behind a link", func(t *testing.T) {
		writeFile(t, filepath.Join(dir, "x.vmdk"), flatDescriptor(4, `RW %d FLAT "in" 0`))
		link := filepath.Join(top, "link.vmdk")
		if err := os.Symlink("vm/x.vmdk", link); err != nil {
			t.Fatal(err)
		}
		checkContent(t, openDisk(t, link, Options{}), b)
	})
}

func TestParents(t *testing.T) {
	top := t.TempDir()
	const size = 64 << 10
	base, delta := randomBytes(size, 1), randomBytes(size, 2)
	f := randomFates(128, false, 1)
	want := overlayModel(base, delta, f, 512)
	put := func(dir, name string, b []byte) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(top, dir), 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(top, dir, name), b)
	}
	for _, dir := range []string{"vm", "other"} {
		put(dir, "base-flat.vmdk", base)
		put(dir, "base.vmdk", []byte(descriptorText(TypeVMFS, 1, NoParent, "", `RW 128 VMFS "base-flat.vmdk"`)))
	}
	put("vm", "moved.vmdk", []byte(descriptorText(TypeVMFS, 9, NoParent, "", `RW 128 VMFS "base-flat.vmdk"`)))
	put("vm", "small.vmdk", []byte(descriptorText(TypeVMFS, 1, NoParent, "", `RW 127 VMFS "base-flat.vmdk"`)))
	put("vm", "raw.vmdk", base)
	put("vm", "delta", genCOWD(delta, f, 1, 1, false))
	put("vm/sub", "base.vmdk", []byte(descriptorText(TypeVMFS, 1, NoParent, "", `RW 128 VMFS "base-flat.vmdk"`)))
	put("vm/sub", "base-flat.vmdk", base)
	for _, tt := range []struct {
		hint          string
		parentCID     uint32
		want, allowed error
	}{
		{"base.vmdk", 1, nil, nil},
		{"sub/base.vmdk", 1, nil, nil},
		{`sub\base.vmdk`, 1, nil, nil},
		{"/nowhere/base.vmdk", 1, nil, nil},
		{`C:\Virtual Machines\base.vmdk`, 1, nil, nil},
		{"../nowhere/base.vmdk", 1, nil, nil},
		{"../vm/base.vmdk", 1, nil, nil},
		{filepath.Join(top, "vm/base.vmdk"), 1, nil, nil},
		{"../other/base.vmdk", 1, disk.ErrOutside, nil},
		{filepath.Join(top, "other/base.vmdk"), 1, disk.ErrOutside, nil},
		{"nothing.vmdk", 1, fs.ErrNotExist, fs.ErrNotExist},
		{"", 1, disk.ErrCorrupt, disk.ErrCorrupt},
		{"base.vmdk", NoParent, disk.ErrMismatch, disk.ErrMismatch},
		{"base.vmdk", 2, disk.ErrMismatch, disk.ErrMismatch},
		{"moved.vmdk", 1, disk.ErrMismatch, disk.ErrMismatch},
		{"small.vmdk", 1, disk.ErrMismatch, disk.ErrMismatch},
		{"raw.vmdk", 1, disk.ErrCorrupt, disk.ErrCorrupt},
		{"delta", 1, disk.ErrCorrupt, disk.ErrCorrupt},
		{"child.vmdk", 2, disk.ErrCorrupt, disk.ErrCorrupt},
		{"base.vmdk\x02", 1, disk.ErrCorrupt, disk.ErrCorrupt},
	} {
		t.Run(fmt.Sprintf("%q %x", tt.hint, tt.parentCID), func(t *testing.T) {
			text := descriptorText(TypeVMFSSparse, 2, tt.parentCID, "", `RW 128 VMFSSPARSE "delta"`)
			if tt.hint != "" {
				text = strings.Replace(text, "createType", `parentFileNameHint="`+tt.hint+"\"\ncreateType", 1)
			}
			put("vm", "child.vmdk", []byte(text))
			for allow, wantErr := range map[bool]error{false: tt.want, true: tt.allowed} {
				d, err := Open(filepath.Join(top, "vm/child.vmdk"), Options{AllowOutside: allow})
				if !errors.Is(err, wantErr) {
					t.Errorf("allow outside %v: %v, want %v", allow, err, wantErr)
				}
				if err == nil {
					checkContent(t, d, want)
					d.Close()
				}
			}
		})
	}
}

func TestChainDepthAndLoop(t *testing.T) {
	dir, base := chainDir(t, 4096)
	f := []fate{stored, absent, absent, absent, absent, absent, absent, stored}
	hint := "base.vmdk"
	for i := range 64 {
		writeFile(t, filepath.Join(dir, fmt.Sprintf("%d-delta", i)), genCOWD(base, f, 1, 1, false))
		text := descriptorText(TypeVMFSSparse, uint32(i+2), uint32(i+1), hint, fmt.Sprintf(`RW 8 VMFSSPARSE "%d-delta"`, i))
		hint = fmt.Sprintf("%d.vmdk", i)
		writeFile(t, filepath.Join(dir, hint), []byte(text))
	}
	checkContent(t, openDisk(t, filepath.Join(dir, "62.vmdk"), Options{}), base)
	if err := openError(t, filepath.Join(dir, "63.vmdk"), Options{}); !errors.Is(err, disk.ErrUnsupported) {
		t.Error(err)
	}
	// A loop whose CIDs fit, through a second name of the same file.
	text := descriptorText(TypeVMFSSparse, 2, 2, "b.vmdk", `RW 8 VMFSSPARSE "0-delta"`)
	path := writeFile(t, filepath.Join(dir, "a.vmdk"), []byte(text))
	if err := os.Link(path, filepath.Join(dir, "b.vmdk")); err != nil {
		t.Fatal(err)
	}
	if err := openError(t, path, Options{}); !errors.Is(err, disk.ErrCorrupt) || !strings.Contains(err.Error(), "in the chain already") {
		t.Error(err)
	}
}

func TestOpenRedo(t *testing.T) {
	const size = 3*mib + 512
	dir := t.TempDir()
	want := patchwork(size, 1)
	copy(want, "KDMV") // the guest's own bytes: the base is raw by its role
	path := filepath.Join(dir, "web01.dsk")
	writeFile(t, path, want)
	models := [][]byte{want}
	for i := range 2 {
		content := patchwork(size, uint64(i+2))
		f := randomFates(size/512, false, uint64(i+2))
		b := genCOWD(content, f, 1, 1, false)
		copy(b[32:], []string{"web01.dsk", "/vmfs/vol/other"}[i])
		path += ".REDO"
		writeFile(t, path, b)
		want = overlayModel(want, content, f, 512)
		models = append(models, want)
	}
	var warned []string
	o := Options{Warn: func(s string) { warned = append(warned, s) }}
	for level, name := range map[int]string{1: "web01.dsk.REDO", 2: "web01.dsk.REDO.REDO"} {
		d, err := OpenRedo(filepath.Join(dir, name), o)
		if err != nil {
			t.Fatal(err)
		}
		checkContent(t, d, models[level])
		if info := d.Info(); info.Kind != KindRedo || len(info.Links) != level+1 || info.Links[level].Kind != KindRaw {
			t.Errorf("info %+v", info)
		}
		d.Close()
	}
	if len(warned) != 4 { // newer level, foreign name, and twice a possible trailer
		t.Errorf("warnings %q", warned)
	}
	checkContent(t, openDisk(t, path, o), want)
	l, err := OpenLink(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	parents := int64(0)
	for r, err := range l.Runs(0, l.Size()) {
		if err != nil {
			t.Fatal(err)
		}
		if r.Kind == disk.Parent {
			parents += r.Length
		}
	}
	l.Close()
	if parents == 0 {
		t.Error("the link alone has no runs of its parent")
	}
	for name, tt := range map[string]struct {
		change func() error
		want   error
	}{
		"not a redo log's name": {func() error { path = filepath.Join(dir, "web01.dsk"); return nil }, disk.ErrUnknown},
		"base of other size": {func() error {
			path = filepath.Join(dir, "a.REDO")
			return errors.Join(os.WriteFile(filepath.Join(dir, "a"), make([]byte, size-512), 0o600), os.WriteFile(path, genCOWD(make([]byte, size), randomFates(size/512, false, 1), 1, 1, false), 0o600))
		}, disk.ErrMismatch},
		"gap": {func() error {
			path = filepath.Join(dir, "b.REDO.REDO")
			return errors.Join(os.WriteFile(filepath.Join(dir, "b"), make([]byte, size), 0o600), os.WriteFile(path, genCOWD(make([]byte, size), randomFates(size/512, false, 1), 1, 1, false), 0o600))
		}, fs.ErrNotExist},
		"not COWD": {func() error {
			path = filepath.Join(dir, "c.REDO")
			return errors.Join(os.WriteFile(filepath.Join(dir, "c"), make([]byte, 4096), 0o600), os.WriteFile(path, make([]byte, 4096), 0o600))
		}, disk.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			if err := tt.change(); err != nil {
				t.Fatal(err)
			}
			d, err := OpenRedo(path, Options{})
			if !errors.Is(err, tt.want) {
				t.Errorf("%v, want %v", err, tt.want)
			}
			if err == nil {
				d.Close()
			}
		})
	}
}

func TestInfo(t *testing.T) {
	d := openDisk(t, testenv.Corpus(t, "vmdk/native/vmfs_thick.vmdk"), Options{})
	info := d.Info()
	for got, want := range map[string]string{
		info.Kind: "vmfs", info.Adapter: "lsilogic", info.Geometry.String(): "2/64/32", info.HWVersion: "14",
		info.LongContentID: "c493b057f416b9534001df440172e8a4", fmt.Sprintf("%08x", info.CID): "0172e8a4",
		info.UUID: "60 00 C2 98 5d 08 de f2-a0 14 2e 05 94 9d d8 38", filepath.Base(info.Files[1]): "vmfs_thick-flat.vmdk",
	} {
		if got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	d = openDisk(t, testenv.Corpus(t, "vmdk/synthetic/root1-cowd.vmdk"), Options{})
	if g := d.Info().Geometry.String(); g != "12/64/32" {
		t.Errorf("geometry of a COWD root: %s", g)
	}
	d = openDisk(t, testenv.Corpus(t, "vmdk/synthetic/a-000003.vmdk"), Options{})
	info = d.Info()
	if len(info.Links) != 4 || len(info.Files) != 8 || info.ParentCID != info.Links[1].CID || !info.Links[0].HasParent() || info.Links[3].HasParent() {
		t.Errorf("chain %+v", info)
	}
}

func TestRefusedDescriptors(t *testing.T) {
	dir := t.TempDir()
	writeFile(t, filepath.Join(dir, "f"), make([]byte, 2048))
	for line, want := range map[string]error{
		`isNativeSnapshot="yes"`:          disk.ErrUnsupported,
		`isNativeSnapshot="no"`:           nil,
		`encryption.keySafe="vmware:key"`: disk.ErrUnsupported,
		`ddb.encryption = "x"`:            disk.ErrUnsupported,
		`ddb.iofilters = "x"`:             nil,
		`createType="somethingNew"`:       disk.ErrCorrupt, // given twice
	} {
		text := append(flatDescriptor(4, `RW %d FLAT "f" 0`), line+"\n"...)
		d, err := Open(writeFile(t, filepath.Join(dir, "x.vmdk"), text), Options{})
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", line, err, want)
		}
		if err == nil {
			d.Close()
		}
	}
	warned := ""
	text := bytes.Replace(flatDescriptor(4, `RW %d FLAT "f" 0`), []byte(TypeMonolithicFlat), []byte("somethingNew"), 1)
	d := openDisk(t, writeFile(t, filepath.Join(dir, "x.vmdk"), text), Options{Warn: func(s string) { warned = s }})
	if d.Info().Kind != "somethingNew" || !strings.Contains(warned, "somethingNew") {
		t.Errorf("kind %q, warning %q", d.Info().Kind, warned)
	}
}
