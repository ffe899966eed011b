package main

import "encoding/json"

// executeFunction is what the runner calls with the input of a document. Here there is none yet.
//
// Put a file of your own in the place of this one and compile the runner again:
//
//	func init() {
//		executeFunction = func(input json.RawMessage) (any, error) {
//			var numbers []float64
//			if err := json.Unmarshal(input, &numbers); err != nil {
//				return nil, err
//			}
//			return map[string]int{"count": len(numbers)}, nil
//		}
//	}
var executeFunction func(input json.RawMessage) (any, error)
