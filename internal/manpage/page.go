// Copyright The vmstream Authors. SPDX-License-Identifier: Apache-2.0

// Package manpage makes manual pages of commands: in roff for man, and as plain
// text for a command that prints its own.
package manpage

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// ExitCodes begins the paragraph that every help text ends with.
const ExitCodes = "Exit codes: "

const environment = "An option that is not given takes its value from the environment variable of its name. What is given wins.\nThe variables are"

const signals = `SIGINT, SIGTERM and SIGHUP stop a run and remove what it has begun; a second one ends it at once. A
SIGHUP that is ignored at the start stays so. SIGPIPE is ignored: a closed pipe is an error like any other.
SIGUSR1 prints how far the run is.`

// Roff returns the manual page of a command in roff. The same command gives the
// same bytes.
func Roff(c *cobra.Command) []byte {
	var p roff
	// No date: a page changes when the program does, not when it is built.
	p.line(`.TH "%s" "1" "" "vmstream" "vmstream manual"`, strings.ToUpper(Name(c)))
	p.section("NAME")
	p.text(Name(c) + ` \- ` + escape(lowerFirst(c.Short)))
	p.section("SYNOPSIS")
	p.synopsis(c)
	description, codes := cutExitCodes(c.Long)
	p.section("DESCRIPTION")
	if description == "" {
		description = c.Short + "."
	}
	p.paragraphs(description)
	p.subcommands(c)
	p.options("OPTIONS", c.NonInheritedFlags())
	p.options("GLOBAL OPTIONS", c.InheritedFlags())
	p.exitStatus(codes)
	if c.Runnable() && !c.HasSubCommands() {
		p.section("ENVIRONMENT")
		p.text(escape(environment))
		p.text(variables(c) + ".")
		p.section("SIGNALS")
		p.text(escape(signals))
	}
	p.seeAlso(c)
	return p.Bytes()
}

// variables lists the environment variables of a command's options.
func variables(c *cobra.Command) string {
	var names []string
	add := func(f *pflag.Flag) {
		if f.Name != "help" && f.Name != "man" && f.Name != "version" && !f.Hidden {
			names = append(names, `\fBVMSTREAM_`+strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))+`\fR`)
		}
	}
	c.NonInheritedFlags().VisitAll(add)
	c.InheritedFlags().VisitAll(add)
	return strings.Join(names, ",\n")
}

// Name returns the name of a command's page: its path with dashes.
func Name(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

func lowerFirst(s string) string {
	if s == "" || strings.HasPrefix(s, "VM") {
		return s
	}
	return strings.ToLower(s[:1]) + s[1:]
}

// cutExitCodes takes the paragraph of exit codes off a description.
func cutExitCodes(long string) (description, codes string) {
	description, codes, _ = strings.Cut(long, ExitCodes)
	return strings.TrimSpace(description), strings.Join(strings.Fields(codes), " ")
}

// roff is a page being written.
type roff struct{ bytes.Buffer }

func (p *roff) line(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

func (p *roff) section(name string) { p.line(`.SH "%s"`, name) }

// text writes lines that are escaped already.
func (p *roff) text(s string) { p.line("%s", s) }

// escape makes s plain text for roff: no escapes, no requests at the start of
// a line, and minus signs that can be copied.
func escape(s string) string {
	s = strings.NewReplacer(`\`, `\e`, `-`, `\-`, `'`, `\(aq`, "`", "\\`", `^`, `\(ha`, `~`, `\(ti`).Replace(s)
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}

// paragraphs writes help text: blank lines separate paragraphs, indented ones
// are examples.
func (p *roff) paragraphs(s string) {
	for i, par := range strings.Split(s, "\n\n") {
		switch {
		case strings.HasPrefix(par, "  "):
			p.text(".PP\n.RS 4\n.nf")
			for l := range strings.SplitSeq(par, "\n") {
				p.text(escape(strings.TrimPrefix(l, "  ")))
			}
			p.text(".fi\n.RE")
		case i > 0:
			p.text(".PP\n" + escape(par))
		default:
			p.text(escape(par))
		}
	}
}

func (p *roff) synopsis(c *cobra.Command) {
	path, use := c.CommandPath(), c.Use
	_, rest, _ := strings.Cut(use, " ")
	if c.HasAvailableSubCommands() {
		rest = "COMMAND [flags] ..."
	}
	p.line(`\fB%s\fR %s`, escape(path), escape(rest))
}

func (p *roff) subcommands(c *cobra.Command) {
	if !c.HasAvailableSubCommands() {
		return
	}
	p.section("COMMANDS")
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() {
			p.text(".TP")
			p.line(`\fB%s\fR(1)`, escape(Name(sub)))
			p.text(escape(sub.Short + "."))
		}
	}
}

func (p *roff) options(title string, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	p.section(title)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		name, usage := pflag.UnquoteUsage(f)
		if name == "stringArray" {
			name = "string"
		}
		p.text(".TP")
		short := ""
		if f.Shorthand != "" {
			short = `\fB` + escape("-"+f.Shorthand) + `\fR, `
		}
		value := ""
		if name != "" {
			value = ` \fI` + escape(name) + `\fR`
		}
		p.line(`%s\fB%s\fR%s`, short, escape("--"+f.Name), value)
		p.text(escape(sentence(usage) + defaultOf(f)))
	})
}

func sentence(s string) string {
	return strings.ToUpper(s[:1]) + s[1:] + "."
}

// defaultOf tells the default of a flag that has one worth telling.
func defaultOf(f *pflag.Flag) string {
	switch f.DefValue {
	case "", "false", "[]":
		return ""
	}
	if f.DefValue == "0" && strings.Contains(f.Usage, "(0: ") { // the usage says what 0 does
		return ""
	}
	return " Default: " + f.DefValue + "."
}

// exitStatus makes a list of the sentence «0 done; 1 failed; …».
func (p *roff) exitStatus(codes string) {
	if codes == "" {
		return
	}
	p.section("EXIT STATUS")
	for item := range strings.SplitSeq(strings.TrimSuffix(codes, "."), "; ") {
		i := strings.LastIndexFunc(leadingCodes(item), func(r rune) bool { return r >= '0' && r <= '9' }) + 1
		p.text(".TP")
		p.line(`\fB%s\fR`, escape(item[:i]))
		p.text(escape(sentence(strings.TrimSpace(item[i:]))))
	}
}

// leadingCodes returns what of «130, 143 and 129 stopped …» stands before the words.
func leadingCodes(item string) string {
	end := 0
	for _, word := range strings.SplitAfter(item, " ") {
		w := strings.Trim(word, " ,")
		if w != "and" && strings.Trim(w, "0123456789") != "" {
			break
		}
		end += len(word)
	}
	return item[:end]
}

func (p *roff) seeAlso(c *cobra.Command) {
	var refs []string
	if c.HasParent() {
		refs = append(refs, c.Parent().CommandPath())
		for _, other := range c.Parent().Commands() {
			if other != c && other.IsAvailableCommand() {
				refs = append(refs, other.CommandPath())
			}
		}
	}
	p.section("SEE ALSO")
	var out []string
	for _, r := range refs {
		out = append(out, `\fB`+escape(strings.ReplaceAll(r, " ", "-"))+`\fR(1)`)
	}
	out = append(out, `\fBtar\fR(1)`, `\fBqemu\-img\fR(1)`)
	p.text(strings.Join(out, ",\n"))
	p.text(".PP\ndocs/scripting.md and docs/format.md in the source tell what scripts and other programs can rely on.")
}
