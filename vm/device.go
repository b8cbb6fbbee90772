// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

package vm

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
)

// device is a place on a bus that a disk can be at.
type device struct {
	bus        string
	controller int
	unit       int
}

// busLimits has the highest numbers that any product knows.
type busLimits struct {
	name       string
	controller int
	unit       int
}

// buses returns the buses in the order in which disks are listed.
func buses() []busLimits {
	return []busLimits{{"scsi", 3, 63}, {"ide", 1, 1}, {"sata", 3, 29}, {"nvme", 3, 63}}
}

func (d device) String() string {
	return d.controllerKey() + ":" + strconv.Itoa(d.unit)
}

func (d device) controllerKey() string { return d.bus + strconv.Itoa(d.controller) }

// exists reports if any product has such a device.
func (d device) exists() bool {
	for _, b := range buses() {
		if b.name == d.bus {
			// 7 is the id of a SCSI controller itself.
			return d.controller <= b.controller && d.unit <= b.unit && (d.bus != "scsi" || d.unit != 7)
		}
	}
	return false
}

// parseDevice splits a folded key such as "scsi0:1.filename". The numbers need
// not be ones that exist.
func parseDevice(key string) (d device, field string, ok bool) {
	name, field, ok := strings.Cut(key, ".")
	if !ok {
		return device{}, "", false
	}
	for _, b := range buses() {
		numbers, ok := strings.CutPrefix(name, b.name)
		if !ok {
			continue
		}
		controller, unit, ok := strings.Cut(numbers, ":")
		c, ok1 := parseNumber(controller)
		u, ok2 := parseNumber(unit)
		return device{b.name, c, u}, field, ok && ok1 && ok2
	}
	return device{}, "", false
}

// parseNumber reads up to nine digits without leading zeros: "scsi00:0" would
// else be a second name of a device.
func parseNumber(s string) (int, bool) {
	if s == "" || len(s) > 9 || s[0] == '0' && s != "0" {
		return 0, false
	}
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n, true
}

// devices returns every device that the configuration mentions, in the order of
// buses, controllers and units.
func (c *Config) devices() []device {
	seen := map[device]bool{}
	var list []device
	for key := range c.first {
		if d, _, ok := parseDevice(key); ok && !seen[d] {
			seen[d] = true
			list = append(list, d)
		}
	}
	rank := map[string]int{}
	for i, b := range buses() {
		rank[b.name] = i
	}
	slices.SortFunc(list, func(a, b device) int {
		return cmp.Or(rank[a.bus]-rank[b.bus], a.controller-b.controller, a.unit-b.unit)
	})
	return list
}
