using System.Security.Cryptography;

namespace Vmm.Registry.Certificates;

/// <summary>
/// What is made of PEM files, made again when they change, so that certificates are renewed without a restart. Files that
/// cannot be used at the moment, such as a certificate whose key is not written yet, leave the last good ones in place. Thread-safe.
/// </summary>
/// <remarks>Looked at when somebody asks, at most once a second, and by content: Kubernetes renews secrets by links, behind which no time stamp changes.</remarks>
internal sealed class PemFiles<T> where T : class
{
    private static readonly TimeSpan Interval = TimeSpan.FromSeconds(1);

    private readonly IReadOnlyList<string> _paths;
    private readonly Func<IReadOnlyList<string>, T> _make;
    private readonly TimeProvider _time;
    private readonly Lock _lock = new();
    private IReadOnlyList<string> _content;
    private T _current;
    private long _looked;

    /// <param name="paths">The files.</param>
    /// <param name="make">Makes it from their contents.</param>
    /// <param name="time">For the interval between looks.</param>
    /// <exception cref="ArgumentException">They cannot be used; the message says which and why.</exception>
    public PemFiles(IReadOnlyList<string> paths, Func<IReadOnlyList<string>, T> make, TimeProvider time)
    {
        (_paths, _make, _time) = (paths, make, time);
        try
        {
            _content = Read();
            _current = make(_content);
        }
        catch (Exception exception) when (IsUnusable(exception))
        {
            throw new ArgumentException($"{string.Join(" and ", paths)}: {exception.Message}", exception);
        }

        _looked = time.GetTimestamp();
    }

    /// <summary>Made from the files as they were a second ago at most.</summary>
    public T Current
    {
        get
        {
            lock (_lock)
            {
                if (_time.GetElapsedTime(_looked) < Interval)
                    return _current;
                _looked = _time.GetTimestamp();
                try
                {
                    IReadOnlyList<string> content = Read();
                    if (!content.SequenceEqual(_content, StringComparer.Ordinal))
                        (_current, _content) = (_make(content), content);
                }
                catch (Exception exception) when (IsUnusable(exception))
                {
                    // Between two files of one renewal; and what expires is seen by the other end.
                }

                return _current;
            }
        }
    }

    private static bool IsUnusable(Exception exception) => exception is IOException or UnauthorizedAccessException or CryptographicException or ArgumentException;

    private List<string> Read() => [.. _paths.Select(File.ReadAllText)];
}
