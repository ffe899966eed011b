// The container protocol in Go: one JSON document on stdin, one on stdout, exit code 0.
//
// In:  {"schema_in": ..., "schema_out": ..., "input": ...}; a schema may be null or left out.
// Out: {"ok": true, "output": ...} or {"ok": false, "error": {"message", "code", "details"}}.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v5"
)

const (
	largest  = 64 << 20 // bytes of an answer, unless SAGGAR_OUTPUT_LIMIT says otherwise
	longest  = 16000    // bytes of a message or a stack
	reported = 3        // violations that are told of; the others are counted
)

const nothingToRun = "No execution function provided. Put a file that defines " +
	"executeFunction(input json.RawMessage) (any, error) in the place of execute.go and build an " +
	"image from saggar/runner-go:build"

// failure is a run that ends in an error of the protocol.
type failure struct {
	Message string `json:"message"`
	Code    string `json:"code"`
	Details string `json:"details"`
}

func (f *failure) Error() string { return f.Message }

func fail(code, format string, values ...any) *failure {
	return &failure{Code: code, Message: fmt.Sprintf(format, values...)}
}

func main() {
	request, answers := takeStreams()
	answers.Write(answer(request))
	os.Exit(0) // goroutines of the user's are not waited for
}

// takeStreams reads stdin and keeps stdout aside: from here on descriptor 1 is stderr, also for
// processes that user code starts.
func takeStreams() ([]byte, *os.File) {
	request, err := io.ReadAll(os.Stdin)
	if err != nil {
		request = nil
	}
	syscall.ForkLock.RLock()
	kept, err := syscall.Dup(1)
	if err != nil {
		fmt.Fprintln(os.Stderr, "no stdout to answer on:", err)
		os.Exit(1)
	}
	syscall.CloseOnExec(kept)
	syscall.ForkLock.RUnlock()
	syscall.Dup3(2, 1, 0)
	if nothing, err := os.Open(os.DevNull); err == nil {
		syscall.Dup3(int(nothing.Fd()), 0, 0)
	}
	return request, os.NewFile(uintptr(kept), "answers")
}

func answer(request []byte) []byte {
	text, err := run(request)
	if err == nil {
		return append(append([]byte(`{"ok":true,"output":`), text...), '}', '\n')
	}
	var failed *failure
	if !errors.As(err, &failed) {
		failed = fail("EXECUTION", "%v", err)
	}
	failed.Message, failed.Details = cut(failed.Message), cut(failed.Details)
	text, _ = encoded(failed)
	return append(append([]byte(`{"ok":false,"error":`), text...), '}', '\n')
}

func cut(text string) string {
	if len(text) <= longest {
		return text
	}
	return strings.ToValidUTF8(text[:longest], "")
}

func run(request []byte) ([]byte, error) {
	document, err := parse(request)
	if err != nil {
		return nil, err
	}
	schemaIn, err := compiled(document, "schema_in")
	if err != nil {
		return nil, err
	}
	schemaOut, err := compiled(document, "schema_out")
	if err != nil {
		return nil, err
	}
	if problem := violations(schemaIn, document["input"]); problem != "" {
		return nil, fail("INPUT_VALIDATION", "input validation failed: %s", problem)
	}
	output, err := call(document["input"])
	if err != nil {
		return nil, err
	}
	text, err := encoded(output)
	if err != nil {
		return nil, fail("OUTPUT_VALIDATION", "output validation failed: %v", err)
	}
	if problem := violations(schemaOut, text); problem != "" {
		return nil, fail("OUTPUT_VALIDATION", "output validation failed: %s", problem)
	}
	if limit := allowed(); len(text) > limit {
		return nil, fail("OUTPUT_TOO_LARGE", "the output has %d bytes, %d are allowed", len(text), limit)
	}
	return text, nil
}

func allowed() int {
	if limit, err := strconv.Atoi(os.Getenv("SAGGAR_OUTPUT_LIMIT")); err == nil {
		return limit
	}
	return largest
}

func parse(request []byte) (map[string]json.RawMessage, error) {
	if len(bytes.TrimSpace(request)) == 0 {
		return nil, fail("NO_INPUT", "nothing on stdin; wanted one JSON document")
	}
	// The decoder would put a mark in the place of what is not UTF-8.
	if !utf8.Valid(request) {
		return nil, fail("INVALID_JSON", "the document is not JSON: it is not UTF-8")
	}
	value, err := decoded(request)
	if err != nil {
		return nil, fail("INVALID_JSON", "the document is not JSON: %v", err)
	}
	if _, ok := value.(map[string]any); !ok {
		return nil, fail("INVALID_JSON", "the document is not an object with the key input")
	}
	var document map[string]json.RawMessage
	if err := json.Unmarshal(request, &document); err != nil {
		return nil, fail("INVALID_JSON", "the document is not JSON: %v", err)
	}
	if _, ok := document["input"]; !ok {
		return nil, fail("MISSING_INPUT", "the document has no key input; null is an input")
	}
	return document, nil
}

// decoded is the value of one JSON text, its numbers as they are written.
func decoded(text []byte) (any, error) {
	// Unmarshal refuses what follows the value; the decoder below does not.
	var finite any
	if err := json.Unmarshal(text, &finite); err != nil {
		return nil, err
	}
	var value any
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	err := decoder.Decode(&value)
	return value, err
}

func encoded(value any) ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(value)
	return bytes.TrimSuffix(text.Bytes(), []byte("\n")), err
}

// compiled is the schema of that name, nil where there is none.
func compiled(document map[string]json.RawMessage, name string) (*jsonschema.Schema, error) {
	text, ok := document[name]
	if !ok || string(text) == "null" {
		return nil, nil
	}
	if first := text[0]; first != '{' && first != 't' && first != 'f' {
		return nil, fail("INVALID_SCHEMA", "%s: wanted an object, true, false or null", name)
	}
	compiler := jsonschema.NewCompiler()
	compiler.LoadURL = func(url string) (io.ReadCloser, error) {
		return nil, fmt.Errorf("%s is outside of the schema", url)
	}
	// A format is a remark, as the standard has it; older drafts would make it a rule.
	for format := range jsonschema.Formats {
		compiler.Formats[format] = func(any) bool { return true }
	}
	const place = "schema:///" // where a relative reference starts from
	if err := compiler.AddResource(place, bytes.NewReader(text)); err != nil {
		return nil, fail("INVALID_SCHEMA", "%s: %v", name, err)
	}
	schema, err := compiler.Compile(place)
	if err != nil {
		return nil, fail("INVALID_SCHEMA", "%s: %s", name, short(err.Error()))
	}
	return schema, nil
}

// violations is what the schema does not allow, each with the JSON pointer to it; empty for none.
func violations(schema *jsonschema.Schema, text []byte) string {
	if schema == nil {
		return ""
	}
	value, err := decoded(text)
	if err != nil {
		return err.Error()
	}
	err = schema.Validate(value)
	var invalid *jsonschema.ValidationError
	if err == nil {
		return ""
	}
	if !errors.As(err, &invalid) {
		return err.Error()
	}
	found := leaves(invalid)
	told := found[:min(len(found), reported)]
	if more := len(found) - len(told); more > 0 {
		told = append(told[:len(told):len(told)], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(told, "; ")
}

// leaves are the violations that have no cause but themselves.
func leaves(invalid *jsonschema.ValidationError) []string {
	if len(invalid.Causes) == 0 {
		if invalid.InstanceLocation == "" {
			return []string{short(invalid.Message)}
		}
		return []string{fmt.Sprintf("at %s: %s", invalid.InstanceLocation, short(invalid.Message))}
	}
	var found []string
	for _, cause := range invalid.Causes {
		found = append(found, leaves(cause)...)
	}
	return found
}

func short(text string) string {
	if len(text) <= 300 {
		return text
	}
	return strings.ToValidUTF8(text[:280]+" ... "+text[len(text)-15:], "")
}

// call runs the user's function; a panic in it is an error of it.
func call(input json.RawMessage) (output any, err error) {
	// A variable, because execute.go may hold a function or a variable without one.
	var function func(json.RawMessage) (any, error) = executeFunction
	if function == nil {
		return nil, fail("NO_EXECUTE_FUNCTION", nothingToRun)
	}
	defer func() {
		if problem := recover(); problem != nil {
			err = &failure{Code: "EXECUTION", Message: fmt.Sprint(problem), Details: string(debug.Stack())}
		}
	}()
	return function(input)
}
