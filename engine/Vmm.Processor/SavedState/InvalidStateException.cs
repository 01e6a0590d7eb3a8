namespace Vmm.Processor.SavedState;

/// <summary>
/// A saved state that its owner cannot take. Every stateful type X of the engine has <c>XState Save()</c> and <c>void Load(XState)</c>;
/// Load throws this for a value that X could not have saved, and may have taken some of the state by then: whoever loads discards X.
/// </summary>
/// <param name="where">The type and member at fault, as in "LocalApic.BaseMsr".</param>
/// <param name="what">What is wrong with it, in a sentence without the name.</param>
public sealed class InvalidStateException(string where, string what) : Exception($"{where}: {what}")
{
    /// <summary>The type and member at fault.</summary>
    public string Where { get; } = where;

    /// <summary>Throws where a condition does not hold.</summary>
    /// <param name="holds">The condition.</param>
    /// <param name="where">The type and member at fault.</param>
    /// <param name="what">What is wrong with it.</param>
    /// <exception cref="InvalidStateException">The condition does not hold.</exception>
    public static void ThrowUnless(bool holds, string where, string what)
    {
        if (!holds)
            throw new InvalidStateException(where, what);
    }

    /// <summary>Throws where an array has not the length that it must have.</summary>
    /// <exception cref="InvalidStateException">It has another length.</exception>
    public static void ThrowUnlessLength<T>(T[] values, int length, string where) =>
        ThrowUnless(values.Length == length, where, $"it has {values.Length} elements instead of {length}.");

    /// <summary>Throws where an array has not the length that it must have, or an element of it is missing.</summary>
    /// <exception cref="InvalidStateException">It has another length, or a null in it.</exception>
    public static void ThrowUnlessWhole<T>(T[] values, int length, string where) where T : class
    {
        ThrowUnlessLength(values, length, where);
        ThrowUnless(!Array.Exists(values, value => value is null), where, "one is missing.");
    }
}
