// `bitwright-worker quantize-layer`: one linear, without a server.
//
//   bitwright-worker quantize-layer layer.safetensors -o out.safetensors
//       --method baq --bits 2.5 --budget codes --json
//
// Reads `weight` [R, C] and `hessian` [C, C] (undamped; F32 or F64; its lower
// triangle is used). Writes `dequantized` F32 [R, C], `levels` U16 [C] and
// `column_loss` F64 [C], with `loss`, `method`, `bits` and the bits per weight
// in the metadata. Prints a table, or with --json one object with `loss`,
// `bits_per_weight` and `seconds`. Ranges stay float32 unless --f16-ranges, so
// that losses compare with those of other implementations.
#ifndef BITWRIGHT_WORKER_RUNTIME_QUANTIZE_LAYER_H_
#define BITWRIGHT_WORKER_RUNTIME_QUANTIZE_LAYER_H_

namespace bitwright {

// argv[0] is the command's name. Returns an ExitCode (common/base/exit_code.h);
// errors go to stderr.
int QuantizeLayerCommand(int argc, char** argv);

}  // namespace bitwright

#endif  // BITWRIGHT_WORKER_RUNTIME_QUANTIZE_LAYER_H_
