// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vm_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/vmstream/vmstream/disk"
	"github.com/vmstream/vmstream/vm"
)

func TestConfigValues(t *testing.T) {
	cp1252 := ".encoding = \"windows-1252\"\n"
	for _, tt := range []struct{ name, text, key, want string }{
		{"quoted", `a = "b c"`, "a", "b c"},
		{"without blanks", `a="b"`, "a", "b"},
		{"tabs", "\ta\t=\t\"b\"\t", "a", "b"},
		{"unquoted", "a = b c \t\r\n", "a", "b c"},
		{"unquoted with quote inside", `a = b"c`, "a", `b"c`},
		{"empty", `a = ""`, "a", ""},
		{"nothing", "a =", "a", ""},
		{"blanks kept in quotes", `a = " b "`, "a", " b "},
		{"comment behind", `a = "b" # c`, "a", "b"},
		{"number sign in value", `a = "b # c"`, "a", "b # c"},
		{"equals sign in value", `a = "b=c"`, "a", "b=c"},
		{"case", `AbC.dEf = "x"`, "aBc.DeF", "x"},
		{"first wins", "a = \"1\"\nA = \"2\"", "a", "1"},
		{"key characters", `a0_.:-Z = "x"`, "a0_.:-z", "x"},
		{"after #! and comments", "#!/usr/bin/vmware\n\n # x\na = \"b\"", "a", "b"},
		{"mark of UTF-8", "\ufeffa = \"b\"", "a", "b"},
		{"CR LF", "a = \"b\"\r\nc = \"d\"\r\n", "c", "d"},
		{"escapes", `a = "|22|7C|0A|c3|A4"`, "a", "\"|\nä"},
		{"no escapes", `a = "| |2 |2g |"`, "a", "| |2 |2g |"},
		{"percent stays", `a = "%25|41"`, "a", "%25A"},
		{"UTF-8", `a = "grün€"`, "a", "grün€"},
		{"UTF-8 declared", ".encoding = \"utf-8\"\na = \"ü\"", "a", "ü"},
		{"not UTF-8", "a = \"gr\xfcn\x80\"", "a", "grün€"},
		{"windows-1252", cp1252 + "a = \"\x80\x9f\xe4\xff\x81|E4\"", "a", "€Ÿäÿ\u0081ä"},
		{"windows-1252 that looks like UTF-8", cp1252 + "a = \"\xc3\xa4\"", "a", "Ã¤"},
		{"backslashes", `a = "C:\vm\"`, "a", `C:\vm\`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := parse(t, tt.text).Get(tt.key)
			if !ok || got != tt.want {
				t.Errorf("got %q, %v, want %q", got, ok, tt.want)
			}
		})
	}
}

func TestConfigMissingKey(t *testing.T) {
	c := parse(t, `a = "b"`)
	if v, ok := c.Get("b"); ok || v != "" {
		t.Errorf("got %q, %v", v, ok)
	}
	if _, ok := c.Get("\u212a"); ok { // a Kelvin sign folds to k by Unicode's rules
		t.Error("a key that is not ASCII is there")
	}
}

func TestConfigBool(t *testing.T) {
	c := parse(t, "a = \"TRUE\"\nb = \"fAlSe\"\nc = \" true \"\nd = \"1\"\ne = \"\"\n")
	for key, want := range map[string][2]bool{
		"a": {true, true}, "b": {false, true}, "c": {true, true}, "d": {}, "e": {}, "f": {},
	} {
		if v, ok := c.Bool(key); v != want[0] || ok != want[1] {
			t.Errorf("%s: got %v, %v, want %v", key, v, ok, want)
		}
	}
}

func TestConfigKeysAndWarnings(t *testing.T) {
	c := parse(t, "b = \"1\"\nA = \"2\"\nB = \"3\"\nnonsense\nc = \"open\n= \"x\"\nd = \"x\"y\"\nb = \"4\"\n.encoding = \"Shift_JIS\"\n")
	if got, want := c.Keys(), []string{"b", "A", ".encoding"}; !reflect.DeepEqual(got, want) {
		t.Errorf("keys %q, want %q", got, want)
	}
	if got, want := c.Duplicates(), []string{"b"}; !reflect.DeepEqual(got, want) {
		t.Errorf("duplicates %q, want %q", got, want)
	}
	checkPrefixes(t, c.Warnings(), []string{
		"line 4 is ignored", "line 5 is ignored: its value has no closing quote", "line 6 is ignored",
		"line 7 is ignored: text follows", "b appears 3 times", `encoding "Shift_JIS" is not known`,
	})
}

func TestConfigManyBadLines(t *testing.T) {
	w := parse(t, "a = \"b\"\n"+strings.Repeat("?\n", 1000)).Warnings()
	if len(w) != 33 || w[32] != "968 more lines are ignored" {
		t.Errorf("%d warnings, the last is %q", len(w), w[len(w)-1])
	}
}

func TestConfigDisplayName(t *testing.T) {
	for text, want := range map[string]string{
		`displayName = "a%2fb%5Cc%25d"`:     `a/b\c%d`,
		`DISPLAYNAME = "100%20 %zz %2"`:     `100%20 %zz %2`,
		`displayName = "|2525 |7C41"`:       `%25 |41`, // % first, then |
		`displayName = "%257C41"`:           `%7C41`,
		`displayName = "  x  "`:             `x`,
		"displayName = \"\xfc\"":            `ü`,
		`guestOS = "x"`:                     ``,
		`displayName = "|22quoted|22|0Ax"`:  "\"quoted\"\nx",
		"displayName = Windows Server 2003": "Windows Server 2003",
	} {
		if got := parse(t, text).DisplayName(); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

func TestParseConfigErrors(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       error
	}{
		{"zero byte", "a = \"b\"\x00\n", disk.ErrUnknown},
		{"UTF-16", "\xff\xfea\x00=\x00b\x00", disk.ErrUnknown},
		{"no line reads", "KDMV\x01\x02\nx\n", disk.ErrUnknown},
		{"long line", "a = \"" + strings.Repeat("x", 64<<10) + "\"\n", disk.ErrUnsupported},
		{"long comment", "#" + strings.Repeat("x", 64<<10), disk.ErrUnsupported},
		{"large", strings.Repeat("#\n", vm.MaxConfigBytes/2+1), disk.ErrUnsupported},
		{"many keys", strings.Repeat("a=\n", 1<<16+1), disk.ErrUnsupported},
		{"many bad lines", strings.Repeat("?\n", 1<<16+1), disk.ErrUnknown},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := vm.ParseConfig([]byte(tt.text))
			var fe *disk.FormatError
			if !errors.Is(err, tt.want) || !errors.As(err, &fe) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

func TestParseConfigLimits(t *testing.T) {
	for name, text := range map[string]string{
		"empty":         "",
		"blank":         "\n \r\n#\n",
		"longest line":  "a=" + strings.Repeat("x", 64<<10-2) + "\n",
		"most keys":     strings.Repeat("a=\n", 1<<16),
		"largest":       strings.Repeat("#\n", vm.MaxConfigBytes/2),
		"only the mark": "\ufeff",
	} {
		if _, err := vm.ParseConfig([]byte(text)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
