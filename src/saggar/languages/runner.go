package main

// The container protocol around one function: a request on stdin, an answer on what was stdout.
// It is compiled together with the user's file, hence the names that nobody else would choose.

import (
	saggarBytes "bytes"
	saggarJSON "encoding/json"
	saggarFmt "fmt"
	saggarIO "io"
	saggarOS "os"
	saggarReflect "reflect"
	saggarDebug "runtime/debug"
	saggarSyscall "syscall"
)

const saggarLongest = 16000 // bytes of a message or a stack

type saggarFailure struct {
	Message string `json:"message"`
	Code    string `json:"code"`
	Details string `json:"details"`
}

// saggarServe calls a function with the input of the request: func(T) (U, error), without the
// error, without the output, or without the input.
func saggarServe(function any) {
	answer := saggarAside()
	output, failure := saggarRun(saggarReflect.ValueOf(function))
	text := []byte(`{"ok":true,"output":`)
	if failure == nil {
		text = append(append(text, output...), '}')
	} else {
		failure.Message = saggarCut(failure.Message)
		failure.Details = saggarCut(failure.Details)
		text, _ = saggarJSON.Marshal(map[string]any{"ok": false, "error": failure})
	}
	answer.Write(append(text, '\n'))
	saggarOS.Exit(0)
}

// saggarAside keeps stdout for the answer; from here on descriptor 1 is stderr.
func saggarAside() *saggarOS.File {
	kept, err := saggarSyscall.Dup(1)
	if err == nil {
		saggarSyscall.CloseOnExec(kept)
		err = saggarSyscall.Dup3(2, 1, 0)
	}
	if err != nil {
		saggarFmt.Fprintln(saggarOS.Stderr, "stdout cannot be set aside:", err)
		saggarOS.Exit(70)
	}
	return saggarOS.NewFile(uintptr(kept), "answer")
}

func saggarRun(function saggarReflect.Value) (output []byte, failure *saggarFailure) {
	defer func() {
		if found := recover(); found != nil {
			message := "panic: " + saggarFmt.Sprint(found)
			failure = &saggarFailure{message, "EXECUTION", string(saggarDebug.Stack())}
		}
	}()
	arguments, failure := saggarArguments(function)
	if failure != nil {
		return nil, failure
	}
	results := function.Call(arguments)
	if last := len(results) - 1; last >= 0 && saggarIsError(results[last].Type()) {
		if err, _ := results[last].Interface().(error); err != nil {
			return nil, &saggarFailure{err.Error(), "EXECUTION", saggarFmt.Sprintf("%T", err)}
		}
		results = results[:last]
	}
	return saggarEncoded(results)
}

func saggarIsError(found saggarReflect.Type) bool {
	return found == saggarReflect.TypeOf((*error)(nil)).Elem()
}

func saggarArguments(function saggarReflect.Value) ([]saggarReflect.Value, *saggarFailure) {
	if function.Kind() != saggarReflect.Func || function.Type().NumIn() > 1 {
		return nil, &saggarFailure{
			"wanted a function of one input, found " + function.Type().String(),
			"NO_EXECUTE_FUNCTION", "",
		}
	}
	request := struct {
		Input saggarJSON.RawMessage `json:"input"`
	}{}
	text, err := saggarIO.ReadAll(saggarOS.Stdin)
	if err == nil {
		err = saggarJSON.Unmarshal(text, &request)
	}
	if err != nil {
		return nil, &saggarFailure{"the request is not JSON: " + err.Error(), "INVALID_JSON", ""}
	}
	if function.Type().NumIn() == 0 {
		return nil, nil
	}
	input := saggarReflect.New(function.Type().In(0))
	if err := saggarJSON.Unmarshal(request.Input, input.Interface()); err != nil {
		message := "input validation failed: " + err.Error()
		return nil, &saggarFailure{message, "INPUT_VALIDATION", ""}
	}
	return []saggarReflect.Value{input.Elem()}, nil
}

func saggarEncoded(results []saggarReflect.Value) ([]byte, *saggarFailure) {
	switch len(results) {
	case 0:
		return []byte("null"), nil
	case 1:
		var text saggarBytes.Buffer
		encoder := saggarJSON.NewEncoder(&text)
		encoder.SetEscapeHTML(false)
		if err := encoder.Encode(results[0].Interface()); err != nil {
			message := "output validation failed: " + err.Error()
			return nil, &saggarFailure{message, "OUTPUT_VALIDATION", ""}
		}
		return saggarBytes.TrimRight(text.Bytes(), "\n"), nil
	}
	return nil, &saggarFailure{"the function returns more than one output", "NO_EXECUTE_FUNCTION", ""}
}

func saggarCut(text string) string {
	if len(text) > saggarLongest {
		return text[:saggarLongest]
	}
	return text
}
