using System.Reflection.Emit;

namespace Vmm.Processor.Translation;

/// <summary>
/// Locals that live no longer than one instruction, its out-of-line code included. They are taken in turn from a large set and not reused at once, because the
/// JIT optimises best what is written in one place; and the set is bounded, because it does not keep track of more than about a
/// thousand locals.
/// </summary>
internal sealed class TemporaryLocals(ILGenerator il)
{
    private const int Most = 320;

    private readonly Dictionary<Type, (List<LocalBuilder> Locals, int Next)> _byType = [];

    /// <summary>A local of a type.</summary>
    public LocalBuilder Take(Type type)
    {
        if (!_byType.TryGetValue(type, out (List<LocalBuilder> Locals, int Next) known))
            known = ([], 0);
        if (known.Locals.Count < Most)
        {
            known.Locals.Add(il.DeclareLocal(type));
            _byType[type] = (known.Locals, 0);
            return known.Locals[^1];
        }
        _byType[type] = (known.Locals, (known.Next + 1) % Most);
        return known.Locals[known.Next];
    }
}
