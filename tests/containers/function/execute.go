package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"strings"
	"time"
)

type request struct {
	Do     string          `json:"do"`
	Values []float64       `json:"values"`
	Value  json.RawMessage `json:"value"`
	Bytes  int             `json:"bytes"`
}

func executeFunction(input json.RawMessage) (any, error) {
	var asked request
	if err := json.Unmarshal(input, &asked); err != nil {
		return nil, err
	}
	switch asked.Do {
	case "describe":
		sum := 0.0
		for _, value := range asked.Values {
			sum += value
		}
		count := len(asked.Values)
		return map[string]any{"count": count, "sum": sum, "mean": sum / float64(count)}, nil
	case "echo", "wait":
		return asked.Value, nil
	case "fail":
		return nil, errors.New("boom at noon")
	case "panic":
		panic("boom at noon")
	case "print":
		for range 20_000 {
			fmt.Println("noise")
		}
		os.Stdout.WriteString("noise\n")
		return map[string]bool{"quiet": true}, nil
	case "large":
		return strings.Repeat("x", asked.Bytes), nil
	case "nan":
		return map[string]any{"a": []float64{1, math.NaN()}}, nil
	case "linger":
		go time.Sleep(10 * time.Minute)
		return "answered", nil
	case "who":
		return who(), nil
	}
	return nil, fmt.Errorf("nothing named %q", asked.Do)
}

func who() map[string]any {
	names := []string{}
	interfaces, _ := net.Interfaces()
	for _, one := range interfaces {
		names = append(names, one.Name)
	}
	return map[string]any{
		"uid": os.Getuid(), "gid": os.Getgid(), "interfaces": names,
		"app": writable("/app"), "tmp": writable("/tmp"),
	}
}

func writable(folder string) bool {
	return os.WriteFile(folder+"/trial", []byte("x"), 0o600) == nil
}
