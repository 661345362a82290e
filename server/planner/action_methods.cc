#include "server/planner/action_methods.h"

namespace bitwright {

v1::MethodSpec QuantizeMethod(v1::MethodSpec method) {
  if (method.scope() == v1::SCOPE_MODEL ||
      method.method() == v1::METHOD_RATIO) {
    method.clear_bits();
  }
  method.clear_ratio();
  method.clear_scope();
  method.clear_granularity();
  const bool exact = method.method() == v1::METHOD_BAQ &&
                     method.variant() == v1::VARIANT_EXACT;
  if (!exact) method.set_budget(v1::BUDGET_FILE);
  if (method.method() == v1::METHOD_BAQ) return method;
  method.set_variant(v1::VARIANT_EXACT);
  if (method.method() != v1::METHOD_RTN) return method;
  method.set_act_order(false);
  method.set_damping(0.01);
  return method;
}

v1::MethodSpec MeasureMethod(v1::MethodSpec method) {
  method.clear_method();
  method.clear_variant();
  method.clear_bits();
  method.clear_budget();
  method.clear_scope();
  method.clear_granularity();
  method.clear_refine_sweeps();
  return method;
}

v1::MethodSpec AllocateMethod(const v1::MethodSpec& method, double bits) {
  v1::MethodSpec kept;
  kept.set_method(method.method());
  kept.set_bits(bits);
  kept.set_budget(method.budget());
  kept.set_scope(method.scope());
  kept.set_granularity(method.granularity());
  return kept;
}

v1::MethodSpec SolveMethod(const v1::MethodSpec& method) {
  v1::MethodSpec kept;
  kept.set_bits(method.bits());
  kept.set_budget(method.budget());
  if (method.budget() == v1::BUDGET_FILE) {
    kept.set_group_size(method.group_size());
  }
  *kept.mutable_ratio() = method.ratio();
  kept.mutable_ratio()->clear_quantizer();
  kept.mutable_ratio()->clear_hybrid();
  return kept;
}

}  // namespace bitwright
