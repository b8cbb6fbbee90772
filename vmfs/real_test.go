// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vmfs

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/internal/testenv"
)

// unpackReal expands the image of a volume that an ESX host has made.
func unpackReal(tb testing.TB) *image {
	tb.Helper()
	m := &image{chunks: map[int64][]byte{}}
	m.size = testenv.RealVMFS(tb, memory{m})
	return m
}

func openReal(tb testing.TB) *FS {
	tb.Helper()
	m := unpackReal(tb)
	f, err := Open([]Device{{Name: "real", R: m, SizeBytes: m.size}}, Options{})
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

// TestReal reads a volume of an ESX host.
func TestReal(t *testing.T) {
	f := openReal(t)
	h := f.Header()
	if h.Version() != "3.31" || h.Label != "toto" || h.UUID.String() != "49edf844-ebfc28f3-65cb-0021280083cf" || h.UUID.MAC() != "00:21:28:00:83:cf" {
		t.Errorf("header %+v", h)
	}
	const zeros = "72abf2ca8f36943ebe2e49ca3a51d409ca5f0bfcffab6c9d25643c17c32889da"
	for name, want := range map[string]string{
		".fbb.sf":                    "81e94e99eb5fe4c66603dba44fe0028e70c38cec60e9916c36c532660f4b297a",
		".fdc.sf":                    "d4b5f9e82a81164be173376aa99d8c57eead66bc338623862b9f9801473912e7",
		".pbc.sf":                    "be660234a9ad326320da001ee2732aa569d9f92bb43a605cba43bd427eb45944",
		".sbc.sf":                    "0ee14365e47a0e38eb07b4fd53ddd177439611567cab1b135510e012cafba024",
		".vh.sf":                     "16e24d83a637cdc927bfba5d4718e1ba0238362cfebf1a0c2648174743c5aae4",
		"thin.vmdk":                  "77b71a52380ea03166249d0f35d5b933addc45ce704c9280b21ffd76aa8e42e4",
		"thick.vmdk":                 "da39c1957fd196be41be6378948ac33aa6b90de4ba9d53c6807234311f40ba8f",
		"zeroedthick.vmdk":           "ae40fa6f22533fc9f89571e73a344296b218f8a3e49b6015cf6f44840ae1cccb",
		"eagerzeroedthick.vmdk":      "a0fee11b8bd0bd225fc930413fde74f850fc23fb30183ccc6bdf203e15de9c4e",
		"thin-flat.vmdk":             zeros,
		"thick-flat.vmdk":            zeros,
		"zeroedthick-flat.vmdk":      zeros,
		"eagerzeroedthick-flat.vmdk": zeros,
	} {
		file, err := f.OpenFile(name)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.New()
		if _, err := io.Copy(sum, io.NewSectionReader(file, 0, file.Size())); err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(sum.Sum(nil)); got != want {
			t.Errorf("%s: digest %s, want %s", name, got, want)
		}
	}
	const block = 1 << 20
	for name, want := range map[string]string{
		"thin-flat.vmdk":             "data 1 hole 199",
		"thick-flat.vmdk":            "data 196 data 2 data 2",
		"zeroedthick-flat.vmdk":      "data 1 tbz 199",
		"eagerzeroedthick-flat.vmdk": "data 200",
	} {
		file, err := f.OpenFile(name)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for e, err := range file.Extents(0, file.Size()) {
			if err != nil {
				t.Fatal(err)
			}
			got += fmt.Sprintf(" %v %d", e.Where, e.Length/block)
		}
		if got[1:] != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
		for r, err := range file.Runs(block, block) {
			if err != nil || r.Offset != block || r.Length != block || (r.Kind == disk.Zero) != (name[0] == 'z' || name[:3] == "thi" && name[3] == 'n') {
				t.Errorf("%s: run %+v, %v", name, r, err)
			}
		}
	}
	slots, err := f.Heartbeats()
	if err != nil || len(slots) != 1 || slots[0].Index != 1795 || slots[0].InUse || slots[0].Generation != 14 {
		t.Errorf("heartbeats %+v, %v", slots, err)
	}
}
