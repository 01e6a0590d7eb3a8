using System.Text;
using Vmm.Protos;

namespace Vmm.Frontend.Listing;

/// <summary>Reads a field of a resource for filters; null where the resource has no such value.</summary>
internal delegate string? FieldReader<in T>(T resource);

/// <summary>
/// Filters after AIP-160: <c>AND</c>, <c>OR</c> (which binds tighter), <c>NOT</c> or <c>-</c>, parentheses, and restrictions by
/// <c>=</c>, <c>!=</c> and <c>:</c> (has). A value may begin or end with <c>*</c>; <c>field:*</c> asks whether there is a value.
/// </summary>
internal sealed class FilterParser<T>
{
    private const int MaxLength = 2048;
    private const int MaxDepth = 32;

    private readonly string _text;
    private readonly Func<string, (FieldReader<T> Read, Func<string, string?> Normalize)?> _fields;
    private int _at;
    private int _depth;

    private FilterParser(string text, Func<string, (FieldReader<T>, Func<string, string?>)?> fields)
    {
        _text = text;
        _fields = fields;
    }

    /// <summary>The predicate that a filter means; everything matches an empty one.</summary>
    /// <param name="filter">The filter.</param>
    /// <param name="fields">By a field's name how it is read, and how a value is brought into the form that is read (null: impossible).</param>
    /// <exception cref="Grpc.Core.RpcException">INVALID_ARGUMENT, with the place.</exception>
    public static Predicate<T> Parse(string filter, Func<string, (FieldReader<T>, Func<string, string?>)?> fields)
    {
        if (filter.Length > MaxLength)
            throw ApiError.InvalidField("filter", $"is longer than {MaxLength} characters.");
        if (string.IsNullOrWhiteSpace(filter))
            return static _ => true;
        var parser = new FilterParser<T>(filter, fields);
        Predicate<T> predicate = parser.Expression();
        if (parser.Peek() != '\0')
            throw parser.Error("the end or an operator was expected");
        return predicate;
    }

    private Predicate<T> Expression()
    {
        if (++_depth > MaxDepth)
            throw Error("it is nested too deeply");
        Predicate<T> left = Factor();
        while (Peek() is not ('\0' or ')'))
        {
            // Terms without an operator between them are joined by AND, too.
            TryKeyword("AND");
            Predicate<T> first = left, second = Factor();
            left = resource => first(resource) && second(resource);
        }

        _depth--;
        return left;
    }

    private Predicate<T> Factor()
    {
        Predicate<T> left = Term();
        while (TryKeyword("OR"))
        {
            Predicate<T> first = left, second = Term();
            left = resource => first(resource) || second(resource);
        }

        return left;
    }

    private Predicate<T> Term()
    {
        bool negated = false;
        while (TryKeyword("NOT") || (Peek() == '-' && ++_at > 0))
            negated = !negated;
        Predicate<T> inner;
        if (Peek() == '(')
        {
            _at++;
            inner = Expression();
            if (Peek() != ')')
                throw Error("')' was expected");
            _at++;
        }
        else
        {
            inner = Restriction();
        }

        return negated ? resource => !inner(resource) : inner;
    }

    private Predicate<T> Restriction()
    {
        int start = _at;
        string name = Word();
        if (_fields(name) is not { } field)
        {
            _at = start;
            throw Error($"{ApiError.Quote(name)} is not a field that can be filtered by");
        }

        Peek();
        bool negated = Take("!=");
        bool has = !negated && Take(":");
        if (!negated && !has && !Take("="))
            throw Error("'=', '!=' or ':' was expected");
        int valueAt = _at;
        string raw = Value(out bool quoted);
        FieldReader<T> read = field.Read;
        if (raw == "*" && !quoted)
            return resource => read(resource) is not null != negated;
        bool prefix = !quoted && raw.EndsWith('*'), suffix = !quoted && raw.StartsWith('*');
        string value;
        if (prefix || suffix)
        {
            value = raw.Trim('*');
        }
        else if (field.Normalize(raw) is { } normal)
        {
            value = normal;
        }
        else
        {
            _at = valueAt;
            throw Error($"{ApiError.Quote(raw)} is not a value of {name}");
        }

        return resource =>
        {
            string? actual = read(resource);
            bool equal = actual is not null && (prefix, suffix) switch
            {
                (true, true) => actual.Contains(value, StringComparison.Ordinal),
                (true, false) => actual.StartsWith(value, StringComparison.Ordinal),
                (false, true) => actual.EndsWith(value, StringComparison.Ordinal),
                _ => actual == value,
            };
            return equal != negated;
        };
    }

    private string Value(out bool quoted)
    {
        char quote = Peek();
        quoted = quote is '"' or '\'';
        if (!quoted)
            return Word();
        var text = new StringBuilder();
        for (_at++; _at < _text.Length; _at++)
        {
            char c = _text[_at];
            if (c == quote)
            {
                _at++;
                return text.ToString();
            }

            if (c == '\\' && _at + 1 < _text.Length)
                c = _text[++_at];
            text.Append(c);
        }

        throw Error("the quote is not closed");
    }

    private string Word()
    {
        Peek();
        int start = _at;
        while (_at < _text.Length && (char.IsAsciiLetterOrDigit(_text[_at]) || _text[_at] is '_' or '-' or '.' or '/' or '*'))
            _at++;
        return _at > start ? _text[start.._at] : throw Error("a name or value was expected");
    }

    private bool TryKeyword(string keyword)
    {
        Peek();
        int end = _at + keyword.Length;
        if (string.CompareOrdinal(_text, _at, keyword, 0, keyword.Length) != 0 || (end < _text.Length && _text[end] is not (' ' or '(' or '\t')))
            return false;
        _at = end;
        return true;
    }

    private bool Take(string text)
    {
        if (string.CompareOrdinal(_text, _at, text, 0, text.Length) != 0)
            return false;
        _at += text.Length;
        return true;
    }

    private char Peek()
    {
        while (_at < _text.Length && char.IsWhiteSpace(_text[_at]))
            _at++;
        return _at < _text.Length ? _text[_at] : '\0';
    }

    private Exception Error(string what) => ApiError.InvalidField("filter", $"cannot be read at character {_at + 1}: {what}.");
}
