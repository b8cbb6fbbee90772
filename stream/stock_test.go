// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package stream

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/stream/codec"
	"github.com/vmstream/vmstream/vmdk"
)

// run runs a program that has to succeed without a word on stderr, and returns
// its stdout.
func run(tb testing.TB, dir string, stdin []byte, name string, args ...string) string {
	tb.Helper()
	c := exec.Command(testenv.Tool(tb, name), args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "LC_ALL=C.UTF-8") // bsdtar warns of names that the locale has not
	if stdin != nil {
		c.Stdin = bytes.NewReader(stdin)
	}
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil || errs.Len() > 0 {
		tb.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String()
}

// extractors are the programs that extract a stream b to a directory.
var extractors = map[string]func(tb testing.TB, dir string, b []byte){
	"tar":     func(tb testing.TB, dir string, b []byte) { run(tb, dir, b, "tar", "-xf", "-") },
	"bsdtar":  func(tb testing.TB, dir string, b []byte) { run(tb, dir, b, "bsdtar", "-xf", "-") },
	"busybox": func(tb testing.TB, dir string, b []byte) { run(tb, dir, b, "busybox", "tar", "xf", "-") },
	"python3": func(tb testing.TB, dir string, b []byte) {
		run(tb, dir, b, "python3", "-c", `import sys, tarfile
t = tarfile.open(fileobj=sys.stdin.buffer, mode="r|")
t.extractall(**({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))`)
	},
	"7z": func(tb testing.TB, dir string, b []byte) {
		name := filepath.Join(tb.TempDir(), "x.tar")
		if err := os.WriteFile(name, b, 0o600); err != nil {
			tb.Fatal(err)
		}
		run(tb, dir, nil, "7z", "x", "-y", name)
	},
}

// stockVM is a VM with names of all kinds; its disks are raw files.
type stockVM struct {
	name  string
	disks []Disk
	raw   []string
	files []File
}

func newStockVM(tb testing.TB, name string, disks map[string][]byte) *stockVM {
	vm := &stockVM{name: name, files: []File{memFile("vm.vmx", []byte("displayName = \"vm\"\n")), memFile("empty.log", nil)}}
	dir := tb.TempDir()
	for file, b := range disks {
		path := filepath.Join(dir, file+".raw")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			tb.Fatal(err)
		}
		im, err := disk.OpenRaw(path)
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(func() { _ = im.Close() })
		d := memDisk(fmt.Sprintf("scsi0:%d", len(vm.disks)), b)
		d.Image, d.Record.File = im, file+".vmdk"
		vm.disks, vm.raw = append(vm.disks, d), append(vm.raw, path)
	}
	return vm
}

func (vm *stockVM) stream(tb testing.TB, o Options) []byte {
	o.Name = vm.name
	b, _ := writeStream(tb, vm.disks, vm.files, o)
	return b
}

// check compares an extracted directory with the VM.
func (vm *stockVM) check(tb testing.TB, dir string) {
	tb.Helper()
	in := filepath.Join(dir, vm.name)
	run(tb, in, nil, "sha256sum", "--strict", "--quiet", "-c", SumsName)
	for i := range vm.disks {
		file := filepath.Join(in, vm.disks[i].Record.File)
		if got := run(tb, in, nil, "qemu-img", "compare", "-f", "vmdk", "-F", "raw", file, vm.raw[i]); !strings.Contains(got, "identical") {
			tb.Errorf("qemu-img compare: %s", got)
		}
		if got := run(tb, in, nil, "qemu-img", "check", "-f", "vmdk", file); !strings.Contains(got, "No errors") {
			tb.Errorf("qemu-img check: %s", got)
		}
		want := fmt.Sprintf("(%d bytes)", vm.disks[i].Image.Size())
		if got := run(tb, in, nil, "vmdkinfo", file); !strings.Contains(got, want) || strings.Count(got, "Sparse") == 0 {
			tb.Errorf("vmdkinfo does not say %q:\n%s", want, got)
		}
	}
}

// Every stock program extracts every stream without a word, and the disks are
// what was backed up.
func TestStockTools(t *testing.T) {
	testenv.Long(t)
	const mib = 1 << 20
	vms := []*stockVM{
		newStockVM(t, "web01", map[string][]byte{"web01": diskWith(9*mib+512, 1, 0, 1, 40, 143), "web01_1": make([]byte, 3*mib)}),
		newStockVM(t, "Büro 日本 & co", map[string][]byte{"Größe (1)": diskWith(512, 2, 0)}),
		newStockVM(t, strings.Repeat("half-", 12), map[string][]byte{strings.Repeat("half-", 12): diskWith(2*mib, 4, 5)}),
		newStockVM(t, strings.Repeat("long-", 25), map[string][]byte{strings.Repeat("disk-", 25): diskWith(2*mib, 3, 5, 17)}),
	}
	for name, extract := range extractors {
		t.Run(name, func(t *testing.T) {
			testenv.Tool(t, name)
			for _, vm := range vms {
				dir := t.TempDir()
				extract(t, dir, vm.stream(t, testOptions(codec.None)))
				vm.check(t, dir)
			}
		})
	}
	for _, c := range codecNames()[1:] {
		t.Run(c, func(t *testing.T) {
			dir := t.TempDir()
			plain := run(t, dir, vms[0].stream(t, testOptions(c)), c, "-dc")
			extractors["tar"](t, dir, []byte(plain))
			vms[0].check(t, dir)
		})
	}
}

// The default size of extents, a disk of more than one of them: members of
// several whole frames, and files whose last frame is full.
func TestStockToolsDefaultExtents(t *testing.T) {
	testenv.Long(t)
	b := diskWith(130<<20, 4, 0, 700, 1500, 2079)
	for i := range 40 {
		textLike(b[i*vmdk.GrainBytes:(i+1)*vmdk.GrainBytes], 1)
	}
	vm := newStockVM(t, "vm", map[string][]byte{"vm": b})
	for _, n := range []int{64<<10 - 512, 128<<10 - 512, 1<<20 - 512, 1 << 20, 3<<20 - 512} {
		vm.files = append(vm.files, memFile(fmt.Sprintf("%d.log", n), textLike(make([]byte, n), uint64(n))))
	}
	for _, c := range codecNames() {
		o := testOptions(c)
		o.ExtentBytes = 0
		dir := t.TempDir()
		stream := vm.stream(t, o)
		if c != codec.None {
			stream = []byte(run(t, dir, stream, c, "-dc"))
		}
		extractors["tar"](t, dir, stream)
		vm.check(t, dir)
	}
}

// The stock decompressors read a stream whatever the length of its last frame
// in front of the pointer is.
func TestStockToolsIndexLengths(t *testing.T) {
	testenv.Long(t)
	for _, c := range codecNames()[1:] {
		for files := range 8 { // the index grows by about 10 KiB each time
			f := []File{}
			for i := range files * 60 {
				f = append(f, memFile(fmt.Sprintf("%04d.log", i), nil))
			}
			b, res := writeStream(t, nil, f, testOptions(c))
			if got := run(t, t.TempDir(), b, c, "-dc"); int64(len(got)) != res.TarBytes {
				t.Errorf("%s: %d bytes of tar, the stream has %d", c, len(got), res.TarBytes)
			}
		}
	}
}

// An extracted disk can be written to, also where its extents are empty.
func TestStockToolsWrite(t *testing.T) {
	testenv.Long(t)
	const mib = 1 << 20
	b := diskWith(20*mib, 5, 0, 200, 319)
	vm := newStockVM(t, "vm", map[string][]byte{"vm": b})
	dir := t.TempDir()
	extractors["tar"](t, dir, vm.stream(t, testOptions(codec.None)))
	file := filepath.Join(dir, "vm", "vm.vmdk")
	for _, at := range []int{mib, 5*mib + 512, 12*mib - 512, 13*mib + 65536, 18 * mib} { // packed and empty extents, and from one into the next
		run(t, dir, nil, "qemu-io", "-f", "vmdk", "-c", fmt.Sprintf("write -P 0xa5 %d 3072", at), file)
		for i := range 3072 {
			b[at+i] = 0xa5
		}
	}
	if err := os.WriteFile(vm.raw[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := run(t, dir, nil, "qemu-img", "compare", "-f", "vmdk", "-F", "raw", file, vm.raw[0]); !strings.Contains(got, "identical") {
		t.Errorf("qemu-img compare: %s", got)
	}
	if got := run(t, dir, nil, "qemu-img", "check", "-f", "vmdk", file); !strings.Contains(got, "No errors") {
		t.Errorf("qemu-img check: %s", got)
	}
}
