// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package command

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/cli"
	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/vm"
	"github.com/vmstream/vmstream/vmdk"
)

// classicVM is a VM of which vmsnap makes a backup.
type classicVM struct {
	t      *testing.T
	dir    string // web01
	config string
	model  []byte // of scsi0:0
	state  string // for the journal
}

const classicDiskBytes = 3<<20 + 3*512

// newClassicVM makes a VM of ESX 2.x, or of ESX 3 and newer, with a persistent
// disk, one that is not, and files beside them.
func newClassicVM(t *testing.T, esx2 bool) *classicVM {
	t.Helper()
	v := &classicVM{t: t, dir: filepath.Join(t.TempDir(), "vms", "web01"), state: t.TempDir(), model: make([]byte, classicDiskBytes)}
	v.must(os.MkdirAll(v.dir, 0o755))
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(v.model[64<<10 : 1<<20]) // never fails
	copy(v.model, "# Disk DescriptorFile\nwhat a guest may write\n")
	copy(v.model[classicDiskBytes-3:], "end")
	name, lines := "web01.vmx", "scsi0.virtualDev = \"lsilogic\"\nscsi0:0.fileName = \"web01.vmdk\"\nscsi0:1.fileName = \"scratch.vmdk\"\nscsi0:1.mode = \"independent-nonpersistent\"\n"
	if esx2 {
		name, lines = "web01.cfg", "scsi0.virtualDev = \"vmxbuslogic\"\nscsi0:0.name = \"vmhba0:0:0:1:web01.vmdk\"\nscsi0:0.mode = \"persistent\"\n"+
			"scsi0:1.name = \"vmhba0:0:0:1:scratch.vmdk\"\nscsi0:1.mode = \"nonpersistent\"\n"
		v.must(os.WriteFile(v.path("web01.vmdk"), v.model, 0o600))
		v.must(os.WriteFile(v.path("scratch.vmdk"), make([]byte, 1<<20), 0o600))
	} else {
		v.create("web01.vmdk", v.model)
		v.create("scratch.vmdk", make([]byte, 1<<20))
	}
	v.config = configure(t, v.dir, name, "scsi0:1.present = \"TRUE\"\n"+lines)
	v.must(os.WriteFile(v.path("nvram"), []byte("nv"), 0o600))
	v.must(os.WriteFile(v.path("vmware.log"), []byte("a log\n"), 0o644))
	return v
}

func (v *classicVM) path(name string) string { return filepath.Join(v.dir, name) }

func (v *classicVM) must(err error) {
	v.t.Helper()
	if err != nil {
		v.t.Fatal(err)
	}
}

func (v *classicVM) create(name string, content []byte) {
	v.t.Helper()
	w, err := vmdk.Create(vmdk.CreateSpec{Format: vmdk.FormatVMFS, Dir: v.dir, Name: name, SizeBytes: int64(len(content))})
	v.must(err)
	_, err = w.WriteAt(content, 0)
	v.must(err)
	v.must(w.Close())
}

// addRedo puts a redo log over scsi0:0 and writes to it.
func (v *classicVM) addRedo(extent string) {
	v.t.Helper()
	ok(v.t, "addredo", v.config, "scsi0:0")
	f, err := os.OpenFile(v.path(extent), os.O_RDWR, 0)
	v.must(err)
	defer f.Close()
	st, err := f.Stat()
	v.must(err)
	u, err := vmdk.OpenUpdate(v.t.Context(), f, vmdk.UpdateSpec{Name: extent, FileBytes: st.Size(), Fill: bytes.NewReader(bytes.Clone(v.model))})
	v.must(err)
	for _, off := range []int64{512, 100 << 10, 2 << 20} {
		b := bytes.Repeat([]byte(extent), 100)[:1024]
		_, err := u.WriteAt(b, off)
		v.must(err)
		copy(v.model[off:], b)
	}
	v.must(u.Close())
}

// contents returns all files below a directory.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		out[strings.TrimPrefix(path, dir+"/")] = string(b)
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return out
}

func listed(m map[string]string) []string {
	var names []string
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// unchanged fails if the files of the VM are not what they were.
func (v *classicVM) unchanged(before map[string]string) {
	v.t.Helper()
	after := contents(v.t, v.dir)
	if !slices.Equal(listed(before), listed(after)) {
		v.t.Errorf("the VM had %q and has %q", listed(before), listed(after))
	}
	for name, was := range before {
		if after[name] != was && after[name] != "" {
			v.t.Errorf("%s has changed from %.1000q to %.1000q", name, was, after[name])
		}
	}
	if left := contents(v.t, v.state); len(left) > 0 {
		v.t.Errorf("left in the journal: %q", listed(left))
	}
}

// content returns what the first disk of a configuration holds.
func content(t *testing.T, config string) []byte {
	t.Helper()
	m, err := vm.Load(config, vm.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	o := vmdk.Options{}
	if m.Disks[0].Raw {
		o.Format = vmdk.SourceRaw
	}
	open := vmdk.Open
	if m.Disks[0].RedoLogs > 0 {
		open = vmdk.OpenRedo
	}
	d, err := open(m.Disks[0].TopPath, o)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	b := make([]byte, d.Size())
	if err := disk.ReadFull(d, b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// TestVmsnapVmres takes backups with redo logs there and not, with and without -l
// and -r, has QEMU read them, and restores them.
func TestVmsnapVmres(t *testing.T) {
	for _, esx2 := range []bool{true, false} {
		for _, levels := range []int{0, 1} {
			for _, flags := range []string{"", "-l", "-r", "-lr"} {
				t.Run(fmt.Sprintf("esx2=%v,levels=%d,%s", esx2, levels, flags), func(t *testing.T) { roundTrip(t, esx2, levels, flags) })
			}
		}
	}
}

func roundTrip(t *testing.T, esx2 bool, levels int, flags string) {
	v := newClassicVM(t, esx2)
	without := contents(t, v.dir)
	if levels > 0 {
		v.addRedo(map[bool]string{true: "web01.vmdk.REDO", false: "web01-000001-delta.vmdk"}[esx2])
	}
	before := contents(t, v.dir)
	backup := filepath.Join(t.TempDir(), "new", "backups")
	args := []string{"vmsnap", "--state-dir", v.state, "-c", v.config, "-d", backup}
	if flags != "" {
		args = append(args, flags)
	}
	out := ok(t, args...)
	if !regexp.MustCompile(`(?m)^Disk found: scsi0:0 \S+/web01\S* \(persistent\)$`).MatchString(out) || !strings.Contains(out, "\nDisk skipped: scsi0:1 ") {
		t.Errorf("stdout: %s", out)
	}
	dir := filepath.Join(backup, "web01")
	if strings.Contains(flags, "r") && levels > 0 {
		if got := listed(contents(t, v.dir)); !slices.Equal(got, listed(without)) || !strings.Contains(out, "\nCommitting redo log: scsi0:0 ") {
			t.Errorf("behind -r there is %q; stdout: %s", got, out)
		}
	} else {
		v.unchanged(before)
	}
	if !bytes.Equal(content(t, v.config), v.model) {
		t.Error("the disk of the VM has changed")
	}
	lookAtBackup(t, v, dir, esx2, strings.Contains(flags, "l"))
	restoreBackup(t, v, dir, esx2, levels > 0 && len(flags) != 3)
}

func lookAtBackup(t *testing.T, v *classicVM, dir string, esx2, whole bool) {
	t.Helper()
	files := contents(t, dir)
	for _, name := range []string{filepath.Base(v.config), "nvram", "vmware.log", "SHA256SUMS"} {
		if _, ok := files[name]; !ok {
			t.Errorf("%s is not in the backup: %q", name, listed(files))
		}
	}
	raw, name := "vmdk", ""
	for n := range files {
		if strings.HasPrefix(n, "web01") && strings.HasSuffix(n, ".vmdk") && !regexp.MustCompile(`-(s\d+|flat|delta)\.vmdk$`).MatchString(n) {
			name = n
		}
		if strings.HasPrefix(n, "scratch") {
			t.Errorf("%s is in the backup", n)
		}
	}
	switch {
	case whole && esx2:
		raw = "raw"
		if files[name] != string(v.model) {
			t.Errorf("%s is not the disk", name)
		}
	case whole && !strings.Contains(files[name], `createType="vmfs"`), !whole && !strings.Contains(files[name], `createType="twoGbMaxExtentSparse"`):
		t.Errorf("%s: %s", name, files[name])
	}
	img := filepath.Join(t.TempDir(), "disk.raw")
	qemu := testenv.Tool(t, "qemu-img")
	if out, err := exec.CommandContext(t.Context(), qemu, "convert", "-f", raw, "-O", "raw", filepath.Join(dir, name), img).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if b, err := os.ReadFile(img); err != nil || !bytes.Equal(b, v.model) {
		t.Errorf("QEMU reads another disk: %d bytes, %v", len(b), err)
	}
}

// restoreBackup restores to other places under other names and formats.
func restoreBackup(t *testing.T, v *classicVM, dir string, esx2, all bool) {
	t.Helper()
	base := filepath.Base(v.config)
	ways := [][]string{nil, {"-n", "web02"}, {"--format", "sparse"}, {"--format", "raw", "-n", "raw"}}
	if !all {
		ways = ways[:1]
	}
	for _, args := range ways {
		to := t.TempDir()
		code, out, errs := run(t, append([]string{"vmres", "-C", to, dir}, args...)...)
		if code != cli.ExitWarnings || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, "scsi0:1") {
			t.Fatalf("exit code %d: %s", code, errs)
		}
		name := "web01"
		if slices.Contains(args, "-n") {
			name = args[slices.Index(args, "-n")+1]
		}
		config := filepath.Join(to, name, base)
		b, err := os.ReadFile(config)
		if err != nil || !strings.Contains(string(b), "displayName = \""+name+"\"") || !strings.Contains(out, "Restore complete: "+filepath.Dir(config)) {
			t.Errorf("%v: %s%s", err, b, out)
		}
		key := map[bool]string{true: "scsi0:0.name", false: "scsi0:0.fileName"}[esx2]
		if got := configured(t, config, key); strings.ContainsAny(got, ":/") || !strings.HasPrefix(got, "web01") {
			t.Errorf("%s is %s", key, got)
		}
		b = bytes.ReplaceAll(b, []byte("scsi0:1.present = \"TRUE\""), []byte("scsi0:1.present = \"FALSE\""))
		v.must(os.WriteFile(config, b, 0o600))
		if slices.Contains(args, "--format") {
			got := configured(t, config, key)
			f := map[bool]vmdk.SourceFormat{true: vmdk.SourceRaw, false: vmdk.SourceVMDK}[args[1] == "raw"]
			d, err := vmdk.Open(filepath.Join(to, name, got), vmdk.Options{Format: f})
			v.must(err)
			b := make([]byte, d.Size())
			v.must(errors.Join(disk.ReadFull(d, b, 0), d.Close()))
			if !bytes.Equal(b, v.model) {
				t.Errorf("%v: another disk", args)
			}
			continue
		}
		if !bytes.Equal(content(t, config), v.model) {
			t.Errorf("%v: another disk", args)
		}
	}
}

// TestVmsnapNames has two disks of one name in two directories, and one whose
// name ends in .dsk: the backup names them apart, and so does what is restored.
func TestVmsnapNames(t *testing.T) {
	for _, flags := range [][]string{nil, {"-l"}} {
		v := newClassicVM(t, false)
		want := map[string]string{}
		lines := ""
		for i, name := range []string{"a/disk.vmdk", "b/disk.vmdk", "old.dsk"} {
			v.must(os.MkdirAll(filepath.Dir(v.path(name)), 0o755))
			b := bytes.Repeat([]byte{byte(i + 1)}, 1<<20)
			w, err := vmdk.Create(vmdk.CreateSpec{Format: vmdk.FormatSparse, Dir: filepath.Dir(v.path(name)), Name: filepath.Base(name), SizeBytes: 1 << 20})
			v.must(err)
			_, err = w.WriteAt(b, 0)
			v.must(errors.Join(err, w.Close()))
			key := fmt.Sprintf("scsi0:%d", i)
			lines += key + ".present = \"TRUE\"\n" + key + ".fileName = \"" + name + "\"\n"
			want[key] = string(b)
		}
		v.must(os.WriteFile(v.config, []byte("displayName = \"web01\"\nscsi0.present = \"TRUE\"\n"+lines), 0o600))
		before := contents(t, v.dir)
		backup, to := t.TempDir(), t.TempDir()
		ok(t, append([]string{"vmsnap", "--state-dir", v.state, "-c", v.config, "-d", backup}, flags...)...)
		v.unchanged(before)
		ok(t, "vmres", "-C", to, filepath.Join(backup, "web01"))
		m, err := vm.Load(filepath.Join(to, "web01", "web01.vmx"), vm.LoadOptions{})
		v.must(err)
		for _, disk := range m.Disks {
			d, err := vmdk.Open(disk.Path, vmdk.Options{})
			v.must(err)
			b := make([]byte, d.Size())
			_, err = d.ReadAt(b, 0)
			v.must(errors.Join(err, d.Close()))
			if string(b) != want[disk.Key] || filepath.Dir(disk.Path) != filepath.Dir(m.Path) {
				t.Errorf("%v: %s at %s is another disk", flags, disk.Key, disk.Path)
			}
		}
		if len(m.Disks) != 3 {
			t.Errorf("%v: %d disks", flags, len(m.Disks))
		}
	}
}
