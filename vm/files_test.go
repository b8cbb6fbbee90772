// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

//go:build unix

package vm_test

import (
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/vmstream/vmstream/vm"
)

// loadFiles loads web.vmx of a new tree and returns the machine and the directory.
func loadFiles(t *testing.T, o vm.LoadOptions, files map[string]string, fifos ...string) (*vm.VM, string) {
	t.Helper()
	dir := tree(t, files)
	for _, name := range fifos {
		if err := syscall.Mkfifo(filepath.Join(dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	m, err := vm.Load(filepath.Join(dir, "web.vmx"), o)
	if err != nil {
		t.Fatal(err)
	}
	return m, dir
}

func TestFiles(t *testing.T) {
	type tree = map[string]string
	for _, tt := range []struct {
		name     string
		options  vm.LoadOptions
		files    tree
		fifos    []string
		want     []string
		warnings []string
		inUse    []string
	}{
		{
			name: "everything of a machine that is off",
			files: tree{
				"web.vmx":  "nvram = \"web.nvram\"\nextendedConfigFile = \"web.vmxf\"\ncheckpoint.vmState = \"\"\n" + present("scsi0:0", "web.vmdk"),
				"web.vmdk": "", "web-flat.vmdk": "", "web-ctk.vmdk": "", "web.nvram": "", "web.vmxf": "", "web.vmsd": "",
				"vmware.log": "", "vmware-1.log": "", "vmware-23.log": "", "vmware-x.log": "", "vmware-.log": "", "other.log": "",
				"web.vmx~": "", "web-aux.xml": "", "web.scoreboard": "", "web-1.hlog": "", "web.psf": "", "web.vmx.lck/": "", "other.vmsd": "", "old.vmsn": "", "web.vmss": "",
			},
			want: []string{"config web.vmx+", "supplemental web.vmxf", "snapshots web.vmsd", "nvram web.nvram", "log vmware-1.log+", "log vmware-23.log+", "log vmware.log+"},
		},
		{
			name: "without logs", options: vm.LoadOptions{NoLogs: true},
			files: tree{"web.vmx": "a = \"b\"\n", "vmware.log": "", "nvram": ""},
			want:  []string{"config web.vmx+", "nvram nvram"},
		},
		{
			name:  "names of other machines and directories",
			files: tree{"web.vmx": "nvram = \"/vmfs/volumes/ds/web/bios.NVRAM\"\nextendedConfigFile = \"sub\\team.vmxf\"\n", "bios.NVRAM": "", "team.vmxf": "", "web.nvram": ""},
			want:  []string{"config web.vmx+", "supplemental team.vmxf", "nvram bios.NVRAM", "nvram web.nvram"},
		},
		{
			name: "snapshots with memory",
			files: tree{
				"web.vmx": "a = \"b\"\n", "web-Snapshot1.vmsn": "", "web-Snapshot1.vmem": "", "web-Snapshot3.vmsn": "", "secret.key": "",
				"web.vmsd": "snapshot0.uid = \"1\"\nsnapshot0.filename = \"web-Snapshot1.vmsn\"\nsnapshot1.uid = \"2\"\nsnapshot1.filename = \"web-Snapshot2.vmsn\"\nsnapshot2.uid = \"3\"\nsnapshot2.filename = \"secret.key\"\n",
			},
			want: []string{"config web.vmx+", "snapshots web.vmsd", "snapshots web-Snapshot1.vmsn", "snapshots web-Snapshot1.vmem"},
		},
		{
			name:  "snapshot list that cannot be read",
			files: tree{"web.vmx": "a = \"b\"\n", "web.vmsd": "\x00"},
			want:  []string{"config web.vmx+", "snapshots web.vmsd"}, warnings: []string{"the list of snapshots is not read: web.vmsd: vm configuration: text at 0x0"},
		},
		{
			name:  "hostile names",
			files: tree{"web.vmx": "nvram = \"../../../etc/passwd\"\nextendedConfigFile = \"web.vmdk\"\ncheckpoint.vmState = \"/etc/shadow\"\n", "web.vmdk": "", "passwd": "", "shadow": ""},
			want:  []string{"config web.vmx+"},
			warnings: []string{
				`extendedConfigFile: "web.vmdk" is not a name of such a file`, `nvram: "../../../etc/passwd" is not a name`, `checkpoint.vmState: "/etc/shadow" is not a name`,
			},
		},
		{
			name:     "named files that are not there",
			files:    tree{"web.vmx": "nvram = \"x.nvram\"\nextendedConfigFile = \"a|00\"\n"},
			want:     []string{"config web.vmx+"},
			warnings: []string{`extendedConfigFile: "a\x00" is no name of a file`, `nvram: "x.nvram" is not in `},
		},
		{
			name:  "links, devices and directories",
			files: tree{"web.vmx": "a = \"b\"\n", "web.nvram": "-> /etc/hostname", "nvram": "-> real.bin", "real.bin": "", "web.vmxf/": "", "vmware-7.log": "-> ../x.log", "vmware-8.log": "-> gone"},
			fifos: []string{"vmware.log", "web.vmsd"},
			want:  []string{"config web.vmx+", "nvram nvram"},
			warnings: []string{
				"web.vmxf: not taken: not a regular file", "web.vmsd: not taken: not a regular file", "web.nvram: not taken: ",
				"vmware-7.log: not taken: ", "vmware-8.log: not taken: ", "vmware.log: not taken: not a regular file",
			},
		},
		{
			name:     "names that are not safe",
			files:    tree{"web.vmx": "nvram = \"-x|0Ay.nvram\"\nextendedConfigFile = \"x_y.nvram.vmxf\"\n", "-x\ny.nvram": "", "x_y.nvram.vmxf": ""},
			want:     []string{"config web.vmx+", "supplemental x_y.nvram.vmxf", "nvram x_y.nvram"},
			warnings: []string{`"`},
		},
		{
			name: "running",
			files: tree{
				"web.vmx": present("scsi0:0", "sub/a.vmdk") + "checkpoint.vmState = \"\"\n", "sub/a.vmdk": "", "sub/a.vmdk.lck/M1.lck": "",
				"web.vmx.lck/M2.lck": "", "web.vmdk.lck/": "", "web-1234.vswp": "", ".lck-0100": "", "web.vmem": "", "web.vmss": "",
			},
			want:  []string{"config web.vmx+"},
			inUse: []string{"lock .lck-0100", "swap file web-1234.vswp", "lock web.vmx.lck", "lock sub/a.vmdk.lck", "memory file web.vmem"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, dir := loadFiles(t, tt.options, tt.files, tt.fifos...)
			if got := fileList(m.Files); !slices.Equal(got, tt.want) {
				t.Errorf("files\n got %q\nwant %q", got, tt.want)
			}
			checkPrefixes(t, shorten(dir, m.Warnings), tt.warnings)
			if got := shorten(dir, m.InUse); !slices.Equal(got, tt.inUse) {
				t.Errorf("in use\n got %q\nwant %q", got, tt.inUse)
			}
			if m.Suspended {
				t.Error("is not suspended")
			}
			for _, f := range m.Files {
				checkSafeName(t, f.Name)
				if filepath.Dir(f.Path) != dir {
					t.Errorf("%s is not in %s", f.Path, dir)
				}
			}
		})
	}
}

func TestSuspended(t *testing.T) {
	type tree = map[string]string
	for _, tt := range []struct {
		name  string
		files tree
		want  []string
	}{
		{
			"named",
			tree{"web.vmx": "checkpoint.vmState = \"web-5f3a.vmss\"\n", "web-5f3a.vmss": "", "web-5f3a.vmem": "", "web.vmem": ""},
			[]string{"config web.vmx+", "suspend web-5f3a.vmss", "suspend web-5f3a.vmem"},
		},
		{
			"by the file",
			tree{"web.vmx": "a = \"b\"\n", "web.vmss": "", "web.vmram": "", "web.vmem": ""},
			[]string{"config web.vmx+", "suspend web.vmss", "suspend web.vmem", "suspend web.vmram"},
		},
		{
			"GSX",
			tree{"web.vmx": "checkpoint.vmState = \"C:\\\\vm\\\\web.std\"\n", "web.std": ""},
			[]string{"config web.vmx+", "suspend web.std"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, _ := loadFiles(t, vm.LoadOptions{}, tt.files)
			if got := fileList(m.Files); !slices.Equal(got, tt.want) || !m.Suspended {
				t.Errorf("suspended %v, files\n got %q\nwant %q", m.Suspended, got, tt.want)
			}
		})
	}
	m, _ := loadFiles(t, vm.LoadOptions{}, tree{"web.vmx": "checkpoint.vmState = \"gone.vmss\"\n"})
	if m.Suspended || len(m.Warnings) != 1 {
		t.Errorf("state that is not there: %v, %q", m.Suspended, m.Warnings)
	}
}

func TestFilesThatCollide(t *testing.T) {
	m, _ := loadFiles(t, vm.LoadOptions{}, map[string]string{"web.vmx": "nvram = \"-web.nvram\"\n", "-web.nvram": "1", "web.nvram": "2"})
	if got, want := fileList(m.Files), []string{"config web.vmx+", "nvram web.nvram", "nvram 2_web.nvram"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestLoadDoesNotWaitForFIFOs(t *testing.T) {
	dir := tree(t, map[string]string{"a.vmx": present("ide0:0", "pipe.vmdk")})
	for _, name := range []string{"web.vmx", "pipe.vmdk"} {
		if err := syscall.Mkfifo(filepath.Join(dir, name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"web.vmx", "a.vmx"} {
		if _, err := vm.Load(filepath.Join(dir, name), vm.LoadOptions{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
