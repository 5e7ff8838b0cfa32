package terminal

import (
	"bufio"
	"io"
	"strings"
)

// Cell is one field of a table.
type Cell struct {
	Text   string
	Colour Colour
}

// Text makes a cell of text without a colour.
func Text(text string) Cell { return Cell{Text: text} }

// Table is written with its columns aligned. Texts are cleaned when it is written.
type Table struct {
	// Colours says whether the cells' colours are wanted.
	Colours bool
	// Limit bounds a column's width; 0 means that nothing is cut off.
	Limit int
	// Indent is put before each line.
	Indent string

	rows [][]Cell
}

// Header adds the line of the columns' names.
func (t *Table) Header(names ...string) {
	row := make([]Cell, len(names))
	for i, name := range names {
		row[i] = Cell{Text: name, Colour: Bold}
	}
	t.rows = append(t.rows, row)
}

// Row adds a line. An empty field is shown as a dash.
func (t *Table) Row(cells ...Cell) {
	for i := range cells {
		if cells[i].Text == "" {
			cells[i].Text = "-"
		}
	}
	t.rows = append(t.rows, cells)
}

// Write writes the table. Nothing stands behind the last column.
func (t *Table) Write(out io.Writer) error {
	widths := t.measure()
	buffered := bufio.NewWriter(out)
	for _, row := range t.rows {
		buffered.WriteString(t.Indent)
		for i, cell := range row {
			text := cell.Text
			if t.Colours {
				text = cell.Colour.Paint(text)
			}
			buffered.WriteString(text)
			if i < len(row)-1 {
				buffered.WriteString(strings.Repeat(" ", widths[i]-Width(cell.Text)+2))
			}
		}
		buffered.WriteByte('\n')
	}
	return buffered.Flush()
}

// measure cleans and clips the fields, and gives each column's width.
func (t *Table) measure() []int {
	var widths []int
	for _, row := range t.rows {
		for i := range row {
			row[i].Text = Clean(row[i].Text)
			if t.Limit > 0 {
				row[i].Text = Clip(row[i].Text, t.Limit)
			}
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], Width(row[i].Text))
		}
	}
	return widths
}

// Pad fills text up to a width, for lines that are written one by one. What is wider stays as it is.
func Pad(text string, columns int) string {
	return text + strings.Repeat(" ", max(columns-Width(text), 0))
}
