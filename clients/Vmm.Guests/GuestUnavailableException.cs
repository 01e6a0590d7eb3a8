namespace Vmm.Guests;

/// <summary>A kernel, package or tool could not be had. The message is for the user: what is missing and what to do instead.</summary>
public sealed class GuestUnavailableException(string message, Exception? inner = null) : Exception(message, inner);
