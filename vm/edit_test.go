// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vm_test

import (
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vm"
)

func TestEdit(t *testing.T) {
	type changes = map[string]string
	for _, tt := range []struct {
		name, text string
		changes    changes
		want       string
	}{
		{"nothing", "a = \"b\"\r\nx", nil, "a = \"b\"\r\nx"},
		{"replace", "#!x\na = \"b\"\nc = \"d\"\n", changes{"a": "z"}, "#!x\na = \"z\"\nc = \"d\"\n"},
		{"case of key kept", " aB\t=  \"b\"  # why\r\n", changes{"Ab": "z"}, " aB\t=  \"z\"  # why\r\n"},
		{"unquoted", "a = b c  \nd = e", changes{"a": "1", "d": "2"}, "a = \"1\"  \nd = \"2\""},
		{"no value", "a =", changes{"a": "1"}, "a =\"1\""},
		{"append sorted", "a = \"b\"\n", changes{"z": "1", "d": "2"}, "a = \"b\"\nd = \"2\"\nz = \"1\"\n"},
		{"append to open line", "a = \"b\"", changes{"c": "d"}, "a = \"b\"\nc = \"d\"\n"},
		{"append with CR LF", "a = \"b\"\r\n", changes{"c": "d"}, "a = \"b\"\r\nc = \"d\"\r\n"},
		{"append to nothing", "", changes{"c": "d"}, "c = \"d\"\n"},
		{"both", "b = \"1\"\na = \"2\"\n", changes{"a": "3", "b": "4", "c": "5"}, "b = \"4\"\na = \"3\"\nc = \"5\"\n"},
		{"escapes", "a = \"\"\n", changes{"a": "\"|\n\x00\x7f#="}, "a = \"|22|7C|0A|00|7F#=\"\n"},
		{"windows-1252", ".encoding = \"windows-1252\"\na = \"\xe4\"\n", changes{"b": "€ä"}, ".encoding = \"windows-1252\"\na = \"\xe4\"\nb = \"\x80\xe4\"\n"},
		{"UTF-8", "a = \"\"\n", changes{"a": "€"}, "a = \"€\"\n"},
		{"mark kept", "\ufeffa = \"b\"\n", changes{"a": "c"}, "\ufeffa = \"c\"\n"},
		{"bad lines kept", "a = \"b\"\n\xff??\nc = \"d\n", changes{"a": "c"}, "a = \"c\"\n\xff??\nc = \"d\n"},
		{"other keys may be double", "a = \"1\"\na = \"2\"\nb = \"3\"\n", changes{"b": "4"}, "a = \"1\"\na = \"2\"\nb = \"4\"\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parse(t, tt.text).Edit(tt.changes)
			if err != nil || string(got) != tt.want {
				t.Errorf("got %q, %v\nwant %q", got, err, tt.want)
			}
		})
	}
}

func TestEditRefuses(t *testing.T) {
	type changes = map[string]string
	cp1252 := ".encoding = \"windows-1252\"\n"
	for _, tt := range []struct {
		name, text string
		changes    changes
		want       error
	}{
		{"double key", "a = \"1\"\nA = \"1\"\n", changes{"a": "2"}, disk.ErrCorrupt},
		{"unreadable line", "x = \"1\"\na = \"1\n", changes{"a": "2"}, disk.ErrCorrupt},
		{"asked twice", "x = \"1\"\n", changes{"a": "2", "A": "3"}, disk.ErrMismatch},
		{"no key", "", changes{"": "2"}, disk.ErrUnsupported},
		{"key with a blank", "", changes{"a b": "2"}, disk.ErrUnsupported},
		{"key with a newline", "", changes{"a\nb": "2"}, disk.ErrUnsupported},
		{"key of a digit", "", changes{"1a": "2"}, disk.ErrUnsupported},
		{"encoding", cp1252, changes{".Encoding": "UTF-8"}, disk.ErrUnsupported},
		{"not UTF-8", "", changes{"a": "\xff"}, disk.ErrUnsupported},
		{"not in windows-1252", cp1252, changes{"a": "Ł"}, disk.ErrUnsupported},
		{"unknown encoding", ".encoding = \"GBK\"\n", changes{"a": "ä"}, disk.ErrUnsupported},
		{"encrypted", "encryption.keySafe = \"x\"\n", changes{"a": "b"}, disk.ErrUnsupported},
		{"long value", "", changes{"a": strings.Repeat("|", 30000)}, disk.ErrUnsupported},
		{"long line", "a = \"\" #" + strings.Repeat("x", 40000), changes{"a": strings.Repeat("x", 40000)}, disk.ErrUnsupported},
		{"large file", strings.Repeat("#\n", vm.MaxConfigBytes/2), changes{"a": "b"}, disk.ErrUnsupported},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if b, err := parse(t, tt.text).Edit(tt.changes); !errors.Is(err, tt.want) || b != nil {
				t.Errorf("got %d bytes, %v, want %v", len(b), err, tt.want)
			}
		})
	}
}

// TestEditProperty changes some keys of files with lines of every sort: changed
// keys read as asked, and every other line has its bytes.
func TestEditProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		eol := rapid.SampledFrom([]string{"\n", "\r\n"}).Draw(t, "eol")
		lines := rapid.SliceOfN(rapid.SampledFrom([]string{
			"# x", "", "???", "\xfc = \"x\"", "k1 = \"one\"", "K2=two", "\tk3 = \"|22\" # c", "k4 = ", "k5 = \"open", "k6 = \"1\"", "k6 = \"2\"", "k7 = \"\xfc\"",
		}), 1, 20).Draw(t, "lines")
		text := "k0 = \"zero\"" + eol + strings.Join(lines, eol) + rapid.SampledFrom([]string{"", eol}).Draw(t, "end")
		changes := rapid.MapOfN(rapid.SampledFrom([]string{"k0", "K1", "k2", "K3", "k4", "k5", "k6", "k7", "new", "scsi0:0.fileName"}), rapid.String(), 0, 5).Draw(t, "changes")
		c, err := vm.ParseConfig([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		edited, err := c.Edit(changes)
		if err != nil {
			if !errors.Is(err, disk.ErrCorrupt) { // double or unreadable keys
				t.Fatal(err)
			}
			return
		}
		checkEdited(t, text, string(edited), changes)
	})
}

func checkEdited(t *rapid.T, before, after string, changes map[string]string) {
	c, err := vm.ParseConfig([]byte(after))
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range changes {
		if got, ok := c.Get(key); !ok || got != want {
			t.Fatalf("%s: %q, want %q", key, got, want)
		}
	}
	old, now := strings.Split(before, "\n"), strings.Split(after, "\n")
	for i, line := range old {
		key, _, _ := strings.Cut(strings.ToLower(strings.TrimSpace(line)), "=")
		_, lower := changes[strings.TrimSpace(key)]
		_, upper := changes[strings.ToUpper(strings.TrimSpace(key))]
		if lower || upper {
			continue
		}
		// The last line may have got a newline so that others can follow.
		if now[i] != line && (i < len(old)-1 || strings.TrimSuffix(now[i], "\r") != line && line != "") {
			t.Fatalf("line %d: %q became %q", i+1, line, now[i])
		}
	}
}
