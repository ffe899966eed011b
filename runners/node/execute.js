// The module that the runner calls. This one has no function yet.
//
// Put a file of your own over /app/execute.js that exports one, sync or async:
//
//     export async function executeFunction(input) {
//       return { count: input.values.length };
//     }
//
// `export default` and `module.exports` do as well.
