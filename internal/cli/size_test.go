// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package cli

import (
	"math"
	"testing"
	"time"
)

func TestSize(t *testing.T) {
	for _, c := range []struct {
		in   string
		want int64 // -1: an error
		text string
	}{
		{"0", 0, "0"},
		{"4096", 4096, "4K"},
		{"1000", 1000, "1000"},
		{"64K", 64 << 10, "64K"},
		{"64k", 64 << 10, "64K"},
		{"64KiB", 64 << 10, "64K"},
		{"64KB", 64 << 10, "64K"},
		{"8M", 8 << 20, "8M"},
		{"1536M", 1536 << 20, "1536M"},
		{"1G", 1 << 30, "1G"},
		{" 2T ", 2 << 40, "2T"},
		{"8388607T", 8388607 << 40, "8388607T"},
		{"8388608T", -1, ""},
		{"9223372036854775807", math.MaxInt64, "9223372036854775807"},
		{"9223372036854775808", -1, ""},
		{"-1", -1, ""},
		{"", -1, ""},
		{"M", -1, ""},
		{"B", -1, ""},
		{"1.5G", -1, ""},
		{"1P", -1, ""},
		{"lots", -1, ""},
		{"1 M", -1, ""},
	} {
		var s Size = 7
		err := s.Set(c.in)
		switch {
		case c.want < 0:
			if err == nil || s != 7 {
				t.Errorf("%q: %d, error %v; want an error and no change", c.in, s, err)
			}
		case err != nil || int64(s) != c.want || s.String() != c.text:
			t.Errorf("%q: %d %s, error %v; want %d %s", c.in, s, &s, err, c.want, c.text)
		}
	}
}

func FuzzSize(f *testing.F) {
	for _, s := range []string{"64M", "1G", "", "9223372036854775807", "-1", "1KiB"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		var s Size
		if s.Set(in) != nil {
			return
		}
		if s < 0 {
			t.Fatalf("%q: %d", in, s)
		}
		var again Size
		if err := again.Set(s.String()); err != nil || again != s {
			t.Fatalf("%q: %d is written as %s and read as %d (%v)", in, int64(s), &s, int64(again), err)
		}
	})
}

func TestText(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 1 << 20: "1.0 MiB", 1023 << 10: "1.0 MiB",
		999 << 10: "999.0 KiB", 5 << 30: "5.0 GiB", 64 << 40: "64.0 TiB", math.MaxInt64: "8.0 EiB",
	} {
		if got := Bytes(n); got != want {
			t.Errorf("Bytes(%d) = %q, want %q", n, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0:00", 400 * time.Millisecond: "0:00", 600 * time.Millisecond: "0:01", 125 * time.Second: "2:05", time.Hour + 2*time.Minute + 5*time.Second: "1:02:05",
	} {
		if got := Duration(d); got != want {
			t.Errorf("Duration(%v) = %q, want %q", d, got, want)
		}
	}
	if Percent(1, 0) != 0 || Percent(1, 4) != 25 {
		t.Error("Percent")
	}
}
