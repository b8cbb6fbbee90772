// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vm_test

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/internal/testenv"
	"github.com/vmstream/vmstream/vm"
)

// corpusConfig is what a real configuration holds, read by eye.
type corpusConfig struct {
	name     string
	guestOS  string
	disks    []string // "key file mode adapter deviceType"
	warnings []string // beginnings
}

// corpusConfigs has every configuration of the corpus.
func corpusConfigs() map[string]corpusConfig {
	passthru := []string{`scsi0:0: raw device "/vmfs/devices/cdrom/mpx.vmhba32:C0:T0:L0" (scsi-passthru)`}
	return map[string]corpusConfig{
		"annotation":                      {name: "test"},
		"case-insensitive-2":              {name: "fedora11", guestOS: "rhel5", disks: []string{"scsi0:0 fedora11.vmdk persistent lsilogic scsi-harddisk"}},
		"cdrom-scsi-passthru":             {name: "test", warnings: passthru},
		"datacenterpath":                  {name: "test"},
		"esx-in-the-wild-1":               {name: "Fedora11", guestOS: "rhel5", disks: []string{"scsi0:0 Fedora11.vmdk persistent lsilogic scsi-hardDisk"}},
		"esx-in-the-wild-10":              {name: "w2019biosvmware", guestOS: "windows2019srv-64", disks: []string{"sata0:0 windows2019biosvmware.vmdk persistent sata "}},
		"esx-in-the-wild-3":               {name: "virtDebian2", guestOS: "ubuntu-64", disks: []string{"scsi0:0 Debian2.vmdk persistent lsilogic scsi-hardDisk"}},
		"esx-in-the-wild-4":               {name: "virtMonServ1", guestOS: "ubuntu", disks: []string{"scsi0:0 virtMonServ1.vmdk persistent lsilogic scsi-hardDisk"}},
		"esx-in-the-wild-6":               {name: "el6-test", guestOS: "rhel6-64", disks: []string{"scsi0:0 el6-test-000001.vmdk persistent pvscsi scsi-hardDisk"}},
		"esx-in-the-wild-7":               {name: "esx-rhel6-mini-with-scsi-device", guestOS: "rhel6-64", disks: []string{"scsi0:0 esx-rhel6-mini.vmdk persistent pvscsi scsi-hardDisk"}, warnings: []string{"scsi0:1: raw device"}},
		"esx-in-the-wild-9":               {name: "v2v-windows-kkulkarn", guestOS: "windows8srv-64", disks: []string{"scsi0:0 v2v-windows-kkulkarn.vmdk persistent lsisas1068 scsi-hardDisk"}},
		"fusion-in-the-wild-1":            {name: "ATTM_VM", guestOS: "winxppro", disks: []string{"scsi0:0 ATTM_VM.vmdk persistent buslogic "}},
		"gsx-in-the-wild-2":               {name: "Server2", guestOS: "other26xlinux", disks: []string{"ide0:0 Debian-System1-0-cl3.vmdk independent-persistent ide "}},
		"gsx-in-the-wild-3":               {name: "Router", guestOS: "other26xlinux", disks: []string{"ide0:0 Debian-System1-0-cl1.vmdk independent-persistent ide "}},
		"harddisk-ide-file":               {name: "test", disks: []string{"ide0:0 harddisk.vmdk persistent ide ata-hardDisk"}},
		"harddisk-scsi-file-missing-file": {name: "test", disks: []string{"scsi0:0 /vmfs/volumes/ds/missing.vmdk persistent  scsi-hardDisk"}},
		"harddisk-transient":              {name: "test", disks: []string{"ide0:0 harddisk.vmdk independent-nonpersistent ide ata-hardDisk"}},
		"ws-in-the-wild-1":                {name: "debian6", guestOS: "debian6-64", disks: []string{"scsi0:0 /data/vmware/disk.vmdk persistent lsilogic "}},
		"ws-in-the-wild-2":                {name: "debian6", guestOS: "debian6-64", disks: []string{"scsi0:0 /data/vmware/disk.vmdk persistent lsilogic "}},
	}
}

func TestCorpusConfigs(t *testing.T) {
	dir := testenv.Corpus(t, "vmdk/vmx")
	files, err := filepath.Glob(filepath.Join(dir, "*.vmx"))
	if err != nil {
		t.Fatal(err)
	}
	want := corpusConfigs()
	if len(files) != len(want) {
		t.Fatalf("%d configurations in the corpus, the table has %d", len(files), len(want))
	}
	for _, file := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(file), "vmx2xml-"), ".vmx")
		t.Run(name, func(t *testing.T) {
			w, ok := want[name]
			if !ok {
				t.Fatal("not in the table")
			}
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			c := parse(t, string(b))
			if got := c.Warnings(); got != nil {
				t.Errorf("warnings about the text: %q", got)
			}
			if got := c.DisplayName(); got != w.name {
				t.Errorf("name %q, want %q", got, w.name)
			}
			if got, _ := c.Get("GUESTOS"); got != w.guestOS {
				t.Errorf("guest OS %q, want %q", got, w.guestOS)
			}
			refs, warnings, err := c.Disks()
			if err != nil {
				t.Fatal(err)
			}
			var disks []string
			for _, r := range refs {
				disks = append(disks, strings.Join([]string{r.Key, r.File.Written, string(r.Mode), r.Adapter, r.DeviceType}, " "))
				if r.Raw || r.Shared || r.CTK || r.WriteThrough || r.Redo != "" || r.Filters != "" {
					t.Errorf("a flag is set: %+v", r)
				}
			}
			if !reflect.DeepEqual(disks, w.disks) {
				t.Errorf("disks\n got %q\nwant %q", disks, w.disks)
			}
			checkPrefixes(t, warnings, w.warnings)
		})
	}
}

// TestCorpusRoundTrip sets every key of every real file to its own value: the
// same bytes must come back, but for quotes that were missing.
func TestCorpusRoundTrip(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(testenv.Corpus(t, "vmdk/vmx"), "*.vmx"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files: %v", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		c := parse(t, string(b))
		for _, key := range c.Keys() {
			if key == ".encoding" {
				continue
			}
			value, _ := c.Get(key)
			edited, err := c.Edit(map[string]string{key: value})
			if err != nil {
				t.Fatalf("%s: %s: %v", file, key, err)
			}
			// The one file with needless escapes gets the plain letters.
			if string(edited) != string(b) && key != "annotation" {
				t.Errorf("%s: %s: setting it to its own value changed the file", file, key)
			}
		}
	}
}

func parse(tb testing.TB, text string) *vm.Config {
	tb.Helper()
	c, err := vm.ParseConfig([]byte(text))
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// checkPrefixes compares messages with the beginnings they should have.
func checkPrefixes(tb testing.TB, got, want []string) {
	tb.Helper()
	ok := len(got) == len(want)
	for i := 0; ok && i < len(want); i++ {
		ok = strings.HasPrefix(got[i], want[i])
	}
	if !ok {
		tb.Errorf("messages\n got %q\nwant %q", got, want)
	}
}
