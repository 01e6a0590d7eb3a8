namespace Vmm.Processor.Translation.Native;

/// <summary>What became of a trace that was to be compiled.</summary>
internal enum NativeResult
{
    /// <summary>It has native code.</summary>
    Compiled,

    /// <summary>There is no room for its code.</summary>
    NoRoom,

    /// <summary>Interpreting it takes no longer (<see cref="TranslationOptions.EmittedPerHandler"/>).</summary>
    NotWorthwhile,
}
