// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package snapshot

import (
	"slices"
	"strings"
	"testing"
)

func TestTemplate(t *testing.T) {
	values := map[string]string{"config": "/a b/{disk}.vmx", "disk": "scsi0:0", "level": "1"}
	for in, want := range map[string][]string{
		"x {config}  {disk}\t-l={level}": {"x", "/a b/{disk}.vmx", "scsi0:0", "-l=1"},
		`x 'a b' "c \"d\"" e\ f '' {q`:   {"x", "a b", `c "d"`, "e f", "", "{q"},
		`sh -c 'echo "$1"; {}' - {disk}`: {"sh", "-c", `echo "$1"; {}`, "-", "scsi0:0"},
	} {
		got, err := Template(in).argv(values)
		if err == nil {
			err = Template(in).Validate()
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v; want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"", "  ", "''", "a 'b", `a "b`, `a \`, "a {vm}"} {
		if err := Template(in).Validate(); err == nil {
			t.Errorf("%q is taken", in)
		}
	}
	if _, err := Template("x {disk}").argv(map[string]string{"disk": "a\x00b"}); err == nil {
		t.Error("a NUL is taken")
	}
}

// FuzzTemplate has values that must stay one argument.
func FuzzTemplate(f *testing.F) {
	f.Add("cmd {config} '{disk}'", "a b'\"\\ $(x)")
	f.Add(`a "{name}" \{id}`, "{config}")
	f.Fuzz(func(t *testing.T, in, value string) {
		tpl := Template(in)
		if tpl.Validate() != nil || strings.ContainsRune(value, 0) {
			return
		}
		values := map[string]string{}
		for _, p := range placeholders() {
			values[p] = value
		}
		plain, err := tpl.split()
		if err != nil {
			t.Fatal(err)
		}
		got, err := tpl.argv(values)
		if err != nil || len(got) != len(plain) {
			t.Fatalf("%q became %q, %v", plain, got, err)
		}
	})
}
